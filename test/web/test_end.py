"""Tests that must be last: the database is stopped, a password changes, and the browsers' consoles are read."""
from harness import DATABASE, LOOKED_AT, connect, same, sql, test


@test
def while_the_database_is_away_a_page_says_so_and_then_all_goes_on(alice, bob):
    with connect("postgres").cursor() as cursor:
        cursor.execute(f"ALTER DATABASE {DATABASE} ALLOW_CONNECTIONS false")
        try:
            sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'poser_web'")
            alice.open("/tables/poser_widget/")
            assert "The database server does not answer" in alice.text()
        finally:
            cursor.execute(f"ALTER DATABASE {DATABASE} ALLOW_CONNECTIONS true")
    for _ in range(6):  # with either of the two workers
        alice.open("/tables/poser_widget/")
        assert "lamp1" in alice.text()


@test
def a_new_password_ends_the_sessions(alice, bob):
    sql("ALTER ROLE web_bob PASSWORD 'another'")
    bob.open("/")
    same(len(bob.all('[name="password"]')), 1)


@test
def no_page_violates_its_content_security_policy(alice, bob):
    same([message for message in alice.complaints() + bob.complaints() if "Security Policy" in message], [])


@test
def no_page_that_the_tests_have_opened_has_a_flaw(alice):
    """In windows 1,200 and 400 pixels wide.  harness.FLAWS finds the flaws."""
    alice.open("/")
    same({page: flaws for page, flaws in LOOKED_AT.items() if flaws}, {})
