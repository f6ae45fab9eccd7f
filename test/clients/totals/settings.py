# The settings of shop, with the maintained view beside it.

from shop.settings import *     # noqa: F401,F403
from shop.settings import INSTALLED_APPS

INSTALLED_APPS = ["totals", *INSTALLED_APPS]
