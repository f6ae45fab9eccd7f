# A maintained view, and the model that reads it.

from django.db import migrations, models

VIEW = """
    CREATE VIEW shop_customer_lines AS
    SELECT c.id AS customer_id, count(l.id) AS lines,
           count(l.price) AS priced, coalesce(sum(l.price), 0) AS total
      FROM shop_customer c LEFT JOIN shop_line l ON l.customer_id = c.id
     GROUP BY c.id
"""


class Migration(migrations.Migration):
    dependencies = [("totals", "0001_extension"), ("shop", "0003_customer")]
    operations = [
        migrations.RunSQL(VIEW, "DROP VIEW shop_customer_lines"),
        migrations.RunSQL("SELECT poser_maintain('shop_customer_lines')",
                          "SELECT poser_unmaintain('shop_customer_lines')"),
        migrations.CreateModel("CustomerLines", [
            ("customer", models.OneToOneField(
                "shop.Customer", models.DO_NOTHING, primary_key=True,
                related_name="totals", serialize=False)),
            ("lines", models.BigIntegerField()),
            ("priced", models.BigIntegerField()),
            ("total", models.DecimalField(max_digits=30, decimal_places=2)),
        ], options={"managed": False, "db_table": "shop_customer_lines"}),
    ]
