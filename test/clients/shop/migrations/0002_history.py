# The tables get a history.  No version holds the password, nor the time of the last
# change, which alone is no change.

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("shop", "0001_initial")]
    operations = [
        migrations.RunSQL(
            "SELECT poser_track('shop_customer', exclude => '{pw,changed_at}');"
            "SELECT poser_track('shop_line');",
            "SELECT poser_untrack('shop_customer'),"
            "       poser_untrack('shop_line');"),
    ]
