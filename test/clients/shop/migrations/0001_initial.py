from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    dependencies = []
    operations = [
        migrations.CreateModel("Customer", [
            ("id", models.AutoField(primary_key=True, serialize=False,
                                    auto_created=True, verbose_name="ID")),
            ("email", models.CharField(max_length=100, unique=True)),
            ("pw", models.CharField(max_length=128, null=True, blank=True)),
            ("notes", models.TextField(blank=True)),
            ("changed_at", models.DateTimeField(auto_now=True, null=True)),
        ]),
        migrations.CreateModel("Line", [
            ("id", models.AutoField(primary_key=True, serialize=False,
                                    auto_created=True, verbose_name="ID")),
            ("item", models.CharField(max_length=40)),
            ("price", models.DecimalField(max_digits=10, decimal_places=2,
                                          null=True)),
            ("details", models.JSONField(default=dict)),
            ("customer", models.ForeignKey("shop.Customer", models.CASCADE)),
        ], options={"unique_together": {("customer", "item")}}),
    ]
