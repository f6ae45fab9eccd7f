# What a maintained view shows of each customer.  Django only reads it.

from django.db import models

from shop.models import Customer


class CustomerLines(models.Model):
    """The counts and sums of a customer's lines."""
    customer = models.OneToOneField(Customer, models.DO_NOTHING,
                                    primary_key=True, related_name="totals")
    lines = models.BigIntegerField()
    priced = models.BigIntegerField()
    total = models.DecimalField(max_digits=30, decimal_places=2)

    class Meta:
        managed = False
        db_table = "shop_customer_lines"
