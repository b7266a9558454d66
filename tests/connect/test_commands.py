"""The commands that share the app's code: ``disconnect`` and ``keys rotate``, as a person at a terminal meets them."""

import base64
import getpass

import pytest

from tests.support.site import KEYS, Site, run_command

NOWHERE = "postgresql://nobody@127.0.0.1:1/nowhere"
NEW_KEY = "k2:" + base64.urlsafe_b64encode(bytes(range(40, 72))).decode()


def key_ids(site: Site) -> dict[str, str]:
    """Tell which key holds each organization's token."""
    rows = site.ledger.execute("SELECT organization_id::text, key_id FROM tokens WHERE key_id IS NOT NULL").fetchall()
    return dict(rows)


class TestDisconnect:
    def test_it_ends_the_connection_here_and_at_vanta(self, site: Site) -> None:
        organization, slug = site.organization()
        site.connected(slug, site.admin(organization))
        before = site.token(organization)
        assert before is not None
        done = run_command(site, "disconnect", slug)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"{slug} is disconnected: nothing is sent any more, its history stays.\n"
        connection = site.connection(organization)
        assert connection is not None
        assert connection.state == "disconnected"
        assert site.token(organization) is None
        assert site.vanta.token(grant_type="refresh_token", refresh_token=before.refresh_token).status_code == 400
        [actor] = site.ledger.execute(
            "SELECT actor FROM audit_events WHERE event = 'disconnected' AND organization_id = %s", [organization]
        ).fetchall()
        assert actor == (f"terminal:{getpass.getuser()}",)

    def test_again_is_harmless(self, site: Site) -> None:
        organization, slug = site.organization()
        site.connected(slug, site.admin(organization))
        assert run_command(site, "disconnect", slug).returncode == 0
        suspended = len(site.vanta.journal("suspend"))
        assert run_command(site, "disconnect", slug).returncode == 0
        assert len(site.vanta.journal("suspend")) == suspended

    def test_it_finishes_what_a_crash_left_half_done(self, site: Site) -> None:
        """Marked disconnected, and killed before the token was erased."""
        organization, slug = site.organization()
        site.connected(slug, site.admin(organization))
        site.ledger.execute(
            "UPDATE connections SET state = 'disconnected', disconnected_at = now() WHERE organization_id = %s",
            [organization],
        )
        assert run_command(site, "disconnect", slug).returncode == 0
        assert site.token(organization) is None

    def test_what_vanta_did_not_confirm_is_said(self, site: Site) -> None:
        organization, slug = site.organization()
        site.connected(slug, site.admin(organization))
        site.vanta.fault("suspend", "status", tenant=str(organization), status=500)
        try:
            done = run_command(site, "disconnect", slug)
            assert [fault["fired"] for fault in site.vanta.faults() if fault["tenant"] == str(organization)] == [1]
        finally:
            site.vanta.clear_faults()
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"symvanta: {slug} is disconnected and its token erased, but Vanta did not")
        assert site.token(organization) is None

    @pytest.mark.parametrize(
        "away",
        [
            {"SYM_DATABASE_URL": NOWHERE},
            {"SYM_DATABASE_URL": ""},
            {"DAGSTER_POSTGRES_URL": NOWHERE.replace("postgresql", "postgresql+psycopg2")},
            {"SYMVANTA_TOKEN_KEYS": NEW_KEY},
        ],
        ids=["Sym away", "Sym not set", "Dagster away", "its key lost"],
    )
    def test_it_needs_no_more_than_it_uses(self, site: Site, away: dict[str, str]) -> None:
        """Ending a grant is most urgent when something is wrong."""
        organization, slug = site.organization()
        site.connected(slug, site.admin(organization))
        done = run_command(site, "disconnect", slug, **away)
        lost = "SYMVANTA_TOKEN_KEYS" in away
        assert (done.returncode, "cannot be named to Vanta" in done.stderr) == (int(lost), lost)
        connection = site.connection(organization)
        assert connection is not None
        assert connection.state == "disconnected"
        assert site.token(organization) is None

    def test_who_was_never_connected_is_named(self, site: Site) -> None:
        _, slug = site.organization()
        done = run_command(site, "disconnect", slug)
        assert (done.returncode, done.stderr) == (1, "symvanta: this organization was never connected to Vanta\n")

    def test_a_customer_that_is_gone_from_sym_can_be_disconnected(self, site: Site) -> None:
        """Its users left with the contract; the token must not outlive it."""
        organization, slug = site.organization()
        site.connected(slug, site.admin(organization))
        for table in ("identities WHERE user_id IN (SELECT id FROM users", "users", "organizations"):
            column = "id" if table == "organizations" else "organization_id"
            where = f"WHERE {column} = %s" + (")" if "IN" in table else "")
            site.sym.execute(f"DELETE FROM {table} {where}", organization)
        assert run_command(site, "disconnect", slug).returncode == 0
        assert site.token(organization) is None


class TestConnect:
    def test_an_organization_that_sym_has_deleted_is_refused(self, site: Site) -> None:
        organization, slug = site.organization()
        site.connected(slug, site.admin(organization))
        site.sym.execute("UPDATE organizations SET deleted_at = now() WHERE id = %s", organization)
        done = run_command(site, "connect", slug, "--no-browser", "--port", "0")
        assert (done.returncode, done.stdout) == (1, "")
        assert f"{organization} is gone from Sym" in done.stderr

    def test_a_ring_that_lacks_a_key_stops_it_before_anybody_is_asked(self, site: Site) -> None:
        organization, slug = site.organization()
        site.connected(slug, site.admin(organization))
        before = len(site.vanta.journal())
        done = run_command(site, "connect", slug, "--no-browser", "--port", "0", SYMVANTA_TOKEN_KEYS=NEW_KEY)
        assert (done.returncode, done.stdout) == (1, "")
        assert "SYMVANTA_TOKEN_KEYS lacks: k1; add them back" in done.stderr
        assert len(site.vanta.journal()) == before
        connection = site.connection(organization)
        assert connection is not None
        assert connection.state == "connected"


class TestKeysRotate:
    def test_every_token_gets_the_first_key_and_stays_the_same(self, site: Site) -> None:
        organization, slug = site.organization()
        site.connected(slug, site.admin(organization))
        before = site.token(organization)
        ring = {"SYMVANTA_TOKEN_KEYS": f"{NEW_KEY},{KEYS}"}
        try:
            held = len(key_ids(site))
            done = run_command(site, "keys", "rotate", **ring)
            assert (done.returncode, done.stderr) == (0, "")
            assert done.stdout == f"{held} re-encrypted with key k2, 0 were already\n"
            assert set(key_ids(site).values()) == {"k2"}
            done = run_command(site, "keys", "rotate", **ring)
            assert done.stdout == f"0 re-encrypted with key k2, {held} were already\n"
        finally:
            back = run_command(site, "keys", "rotate", SYMVANTA_TOKEN_KEYS=f"{KEYS},{NEW_KEY}")
        assert back.returncode == 0
        assert site.token(organization) == before

    def test_it_refuses_a_ring_that_lacks_a_key(self, site: Site) -> None:
        organization, slug = site.organization()
        site.connected(slug, site.admin(organization))
        done = run_command(site, "keys", "rotate", SYMVANTA_TOKEN_KEYS=NEW_KEY)
        assert (done.returncode, done.stdout) == (1, "")
        assert "SYMVANTA_TOKEN_KEYS lacks: k1" in done.stderr
