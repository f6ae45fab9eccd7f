# Each request is a transaction, and its changes are recorded in the name of the user
# that has logged in.  Views have a savepoint each (ATOMIC_REQUESTS), so that an error
# undoes what they did.

from django.db import connection, transaction


def runas(get_response):
    def middleware(request):
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT set_config('poser.runas', %s, true)",
                           [request.user.get_username()])
            return get_response(request)
    return middleware
