# Other columns, another name, another type, and rows that are written: then
# poser_track() again makes the history follow.  The way back ends with the same call,
# which therefore is the first operation's, too.

from django.db import migrations, models

FOLLOW = "SELECT poser_track('shop_customer');"


def fill(apps, schema_editor):
    apps.get_model("shop", "Customer").objects.update(vat="?")


class Migration(migrations.Migration):
    dependencies = [("shop", "0002_history")]
    operations = [
        migrations.RunSQL(migrations.RunSQL.noop, FOLLOW),
        migrations.AddField("Customer", "vat", models.CharField(
            max_length=20, blank=True, default="")),
        migrations.AddField("Customer", "active",
                            models.BooleanField(default=True)),
        migrations.RenameField("Customer", "email", "mail"),
        migrations.RunPython(fill, migrations.RunPython.noop),
        migrations.AlterField("Customer", "mail",
                              models.TextField(unique=True)),
        migrations.RunSQL(FOLLOW, migrations.RunSQL.noop),
        migrations.CreateModel("CustomerVersion", [
            ("change_id", models.BigIntegerField(primary_key=True,
                                                 serialize=False)),
            ("customer_id", models.IntegerField(db_column="id")),
            ("mail", models.TextField(null=True)),
            ("notes", models.TextField(null=True)),
            ("vat", models.TextField(null=True)),
            ("active", models.BooleanField(null=True)),
            ("operation_type", models.SmallIntegerField()),
            ("transaction_id", models.BigIntegerField()),
        ], options={"managed": False, "db_table": "shop_customer_version",
                    "ordering": ["change_id"]}),
    ]
