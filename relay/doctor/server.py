"""PostgreSQL itself: whether it is there, keeps what it acknowledges, and lets us in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from relay.core.errors import ConfigError
from relay.doctor.check import Check, Findings
from relay.doctor.finding import Finding, failed, listed, ok, skipped, warning
from relay.doctor.patient import Patient
from relay.store import durability, schema, server
from relay.store.failures import DATABASE_FAILURES
from relay.store.schema import MIN_SERVER_VERSION, RevisionStatus
from relay.store.server import READS_STATISTICS, Replication, Role, Server, Setting
from relay.store.trouble import cause_of, explain

_ROLES = (
    "give each service a login of its own in the role of its kind (relay_receiver …)"
    " (`relay roles sql` prints what a DBA has to run)"
)


async def _reachable(patient: Patient) -> Findings:
    if patient.settings.database_url is None:
        wrong = [e.message for e in patient.complaints if _is_about(e, "RELAY_DATABASE_URL")]
        if wrong:
            return skipped("RELAY_DATABASE_URL is wrong, see settings.valid")
        return failed(
            "RELAY_DATABASE_URL is not set",
            "set it (postgresql://user@host/name), or start `relay dev` in this directory",
        )
    try:
        found = await patient.ask(server.server)
    except DATABASE_FAILURES as error:
        return judge_unreachable(error, development=patient.development)
    return ok(f"PostgreSQL {found.version} answers")


def _is_about(error: ConfigError, name: str) -> bool:
    return error.setting is not None and error.setting.removesuffix("_FILE") == name


def judge_unreachable(error: BaseException, *, development: bool = False) -> Finding:
    """What keeps us out."""
    cause = cause_of(error)
    reason = " ".join(str(cause).split()) or type(cause).__name__
    if development:
        return failed(reason, "start `relay dev` again: these settings are what it left")
    match getattr(cause, "sqlstate", None):
        case "3D000":
            fix = "create the database, or correct its name in RELAY_DATABASE_URL"
        case "53300":
            fix = "the server has no connection left: raise max_connections, or end some"
        case "57P03":
            fix = "wait: the server is starting up or recovering"
        case _:
            fix = "check the host and port in RELAY_DATABASE_URL, the server, and what is between"
    return failed(reason, explain(error) or fix)


async def _version(patient: Patient) -> Findings:
    return judge_version(await patient.ask(server.server))


def judge_version(found: Server) -> Finding:
    if found.version_number < MIN_SERVER_VERSION:
        least = MIN_SERVER_VERSION // 10_000
        return failed(
            f"PostgreSQL {found.version} is too old", f"upgrade the server to {least} or later"
        )
    return ok(f"PostgreSQL {found.version}")


async def _encoding(patient: Patient) -> Findings:
    return judge_encoding(await patient.ask(server.server))


def judge_encoding(found: Server) -> Finding:
    if found.encoding != "UTF8":
        return failed(
            f"the database is encoded in {found.encoding}, which cannot hold every event",
            "create one with ENCODING 'UTF8' TEMPLATE template0",
        )
    return ok("UTF8")


async def _writable(patient: Patient) -> Findings:
    return judge_writable(await patient.recall(_faults))


def judge_writable(faults: Mapping[str, str]) -> Finding:
    """``faults`` are those of ``durability.find_faults``, as /readyz tells them."""
    if "writable" in faults:
        return failed(
            faults["writable"],
            "name the primary in RELAY_DATABASE_URL (several hosts are allowed), or RESET"
            " default_transaction_read_only",
        )
    return ok("the server takes writes")


async def _durability(patient: Patient) -> Findings:
    attached = await patient.ask(server.attached_settings)
    return judge_durability(await patient.recall(_faults), attached)


def judge_durability(faults: Mapping[str, str], attached: Sequence[Setting]) -> list[Finding]:
    """Of the session's own settings first, then of what other roles would get."""
    weak = [s for s in attached if s.name == "synchronous_commit" and s.value not in _SAFE]
    findings = []
    if "durability" in faults:
        resets = [f"{_alter(setting)} RESET {setting.name}" for setting in weak]
        fix = "; ".join(resets) or (
            "ALTER SYSTEM SET it to on, then SELECT pg_reload_conf(); with several hosts name the"
            " synchronous standbys"
        )
        findings.append(failed(faults["durability"], fix))
    elif weak:
        findings += [
            warning(
                f"synchronous_commit is {setting.value} for {_whom(setting)}: relay is not ready"
                " when it connects so",
                f"{_alter(setting)} RESET synchronous_commit",
            )
            for setting in weak
        ]
    return findings or [ok("fsync, full_page_writes and synchronous_commit are on")]


_SAFE = ("on", "remote_apply")


def _whom(setting: Setting) -> str:
    parts = [f"role {setting.role}"] if setting.role else []
    parts += [f"database {setting.database}"] if setting.database else []
    return " in ".join(parts) or "everybody"


def _alter(setting: Setting) -> str:
    if setting.role is None:
        return f'ALTER DATABASE "{setting.database}"'
    within = f' IN DATABASE "{setting.database}"' if setting.database else ""
    return f'ALTER ROLE "{setting.role}"{within}'


async def _standbys(patient: Patient) -> Findings:
    found = await patient.ask(server.replication)
    return judge_standbys(found, several_hosts=patient.database.has_several_hosts)


def judge_standbys(found: Replication, *, several_hosts: bool) -> Finding:
    states = [standby.state for standby in found.standbys]
    if several_hosts and not found.wanted:
        return skipped("no synchronous standby is asked for, see postgres.durability")
    if found.wanted and None in states:
        return skipped(
            "which standby is synchronous is not for this role to see",
            f"GRANT {READS_STATISTICS} to it",
        )
    in_step = [str(s.name) for s in found.standbys if s.state in ("sync", "quorum")]
    if found.wanted and not in_step:
        return failed(
            f"synchronous_standby_names is {found.wanted!r}, and no such standby is connected:"
            " every commit waits for it",
            "start the standby, or change synchronous_standby_names",
        )
    if found.wanted:
        return ok(f"every commit is on {listed(in_step)} as well")
    if states:
        return ok(
            f"{len(states)} follow without being waited for: a failover to one would lose what was"
            " acknowledged last"
        )
    return ok("no standby")


async def _isolation(patient: Patient) -> Findings:
    found = await patient.ask(server.server)
    return ok(f"the default is {found.isolation}; relay states READ COMMITTED itself")


async def _schema(patient: Patient) -> Findings:
    return judge_schema(await patient.ask(schema.revision_status))


def judge_schema(found: RevisionStatus) -> Finding:
    if not found.usable:
        reason, _, _ = (found.reason or "the schema is not what this build needs").partition(
            ": run"
        )
        newer = found.revision is not None and found.revision > schema.BUILD_REVISION
        return failed(reason, "upgrade relay on this host" if newer else "run `relay migrate`")
    return ok(f"at revision {found.revision}, as this build needs")


async def _role(patient: Patient) -> Findings:
    return judge_role(await patient.ask(server.role), development=patient.development)


def judge_role(found: Role, *, development: bool = False) -> Finding:
    """``development``: it is the server that `relay dev` made for itself."""
    able = [service for service, missing in found.missing.items() if not missing]
    lacking = [
        f"not of {service} (no {listed(missing)})"
        for service, missing in found.missing.items()
        if missing
    ]
    if not able:
        return failed(
            f"{found.name} may do the work of no service: " + "; ".join(lacking),
            f"{_ROLES}, and use one of these in RELAY_DATABASE_URL",
        )
    work = f"may do the work of {listed(able)}" + "".join(f", {each}" for each in lacking)
    if development and found.superuser:
        return ok(f"{found.name} is the superuser of the server that `relay dev` made")
    if found.superuser:
        reason = f"{found.name} is a superuser: whoever gets hold of its password has the server"
        return warning(reason, _ROLES)
    if found.owner:
        return warning(
            f"{found.name} owns the tables: it may change and delete what was received", _ROLES
        )
    return ok(f"{found.name} {work}")


async def _faults(patient: Patient) -> dict[str, str]:
    several = patient.database.has_several_hosts
    async with patient.transaction() as connection:
        return await durability.find_faults(connection, several_hosts=several)


REACHABLE = ("postgres.reachable",)
SCHEMA = ("postgres.schema",)

CHECKS = (
    Check("postgres.reachable", _reachable),
    Check("postgres.version", _version, REACHABLE),
    Check("postgres.encoding", _encoding, REACHABLE),
    Check("postgres.writable", _writable, REACHABLE),
    Check("postgres.durability", _durability, REACHABLE),
    Check("postgres.standbys", _standbys, REACHABLE),
    Check("postgres.isolation", _isolation, REACHABLE),
    Check("postgres.schema", _schema, REACHABLE),
    Check("postgres.role", _role, SCHEMA),
)
