# The extension, before all that needs it: Django's test runner makes an empty database,
# and migrates it.

from django.contrib.postgres.operations import CreateExtension
from django.db import migrations


class Migration(migrations.Migration):
    initial = True
    run_before = [("shop", "0001_initial")]
    operations = [CreateExtension("poser")]
