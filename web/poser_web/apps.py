"""The only application.  Its label is the first part of each table's address."""
from django.apps import AppConfig


class PoserWeb(AppConfig):
    name = "poser_web"
    label = "tables"
    verbose_name = "Tables"
