"""Login with the password of a role of PostgreSQL."""
from harness import same, test


@test
def a_wrong_password_is_refused(alice, bob):
    alice.log_in("web_alice", "wrong")
    assert "The user or the password is wrong" in alice.text()
    same(len(alice.all('[name="password"]')), 1)


@test
def a_role_logs_in_with_its_own_password(alice, bob):
    alice.log_in("web_alice")
    bob.log_in("web_bob")
    same([browser.find("#user-tools strong").get_attribute("textContent") for browser in (alice, bob)], ["web_alice", "web_bob"])
