#!/usr/bin/env python3
"""Runs Django's commands for the web admin: check, collectstatic and so on."""
import os

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "poser_web.settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line()
