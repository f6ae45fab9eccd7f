"""Settings of gunicorn, which reads this file from the folder in which it is started.

With threads, the long execution of a batch stops no other page, and gunicorn's timeout
ends workers that hang, but no long requests.
"""
wsgi_app = "poser_web.wsgi"
worker_class = "gthread"
workers = 2
threads = 4
