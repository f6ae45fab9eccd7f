"""The addresses for requests without a login.

After login they come from site.urlconf(), since they depend on the tables.
"""
from django.urls import path

from .site import Site

urlpatterns = [path("", Site().urls)]
