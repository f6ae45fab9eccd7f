# bring in all core tables from rattail
from rattail.db.model import *

# bring in our custom tables
from .widgets import Widget, Component
