"""The application for a WSGI server: gunicorn poser_web.wsgi"""
import os

from django.core.wsgi import get_wsgi_application

os.umask(0o077)  # other users must not read the sessions
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "poser_web.settings")
application = get_wsgi_application()
