# The models of a Django application, and what Poser keeps of them: the versions are a
# model that Django only reads.

from django.db import models


class Customer(models.Model):
    mail = models.TextField(unique=True)
    pw = models.CharField(max_length=128, null=True, blank=True)
    notes = models.TextField(blank=True)
    vat = models.CharField(max_length=20, blank=True, default="")
    active = models.BooleanField(default=True)
    changed_at = models.DateTimeField(auto_now=True, null=True)

    def __str__(self):
        return self.mail


class Line(models.Model):
    customer = models.ForeignKey(Customer, models.CASCADE)
    item = models.CharField(max_length=40)
    price = models.DecimalField(max_digits=10, decimal_places=2, null=True)
    details = models.JSONField(default=dict)

    class Meta:
        unique_together = [("customer", "item")]


class CustomerVersion(models.Model):
    """A change of a customer."""
    change_id = models.BigIntegerField(primary_key=True)
    customer_id = models.IntegerField(db_column="id")
    mail = models.TextField(null=True)
    notes = models.TextField(null=True)
    vat = models.TextField(null=True)
    active = models.BooleanField(null=True)
    operation_type = models.SmallIntegerField()
    transaction_id = models.BigIntegerField()

    class Meta:
        managed = False
        db_table = "shop_customer_version"
        ordering = ["change_id"]
