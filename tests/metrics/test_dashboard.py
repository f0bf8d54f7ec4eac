"""deploy/grafana/relay.json asks for metrics and labels that exist, and explains itself."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import pytest

from tests.metrics.test_documented import DOCUMENT, ROOT, documented

DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy/grafana/relay.json").read_text("utf-8"))
ROWS = [panel for panel in DASHBOARD["panels"] if panel["type"] == "row"]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
VARIABLES = {each["name"]: each for each in DASHBOARD["templating"]["list"]}

# A metric with its selector: all of ours are asked for with one.
_ASKED = re.compile(r"\b((?:relay|process)_\w+)(?:\{([^}]*)\})?")
_OF_PROMETHEUS = {"job", "instance"}
# What is drawn elsewhere, or is no line to look at.
_NOT_DRAWN = {"process_virtual_memory_bytes"}


def exprs(panel: dict[str, Any]) -> list[str]:
    return [target["expr"] for target in panel["targets"]]


def family_of(name: str) -> str:
    """The documented name of a sample: of a histogram without its end."""
    known = documented()
    base = re.sub(r"_(bucket|sum|count)$", "", name)
    return base if name not in known and known.get(base, ("",))[0] == "histogram" else name


def asked(expr: str) -> dict[str, str]:
    """The selectors of the metrics in an expression, by the documented names."""
    return {family_of(name): selector for name, selector in _ASKED.findall(expr)}


ALL = [(p["title"], target) for p in PANELS for target in p["targets"]]


@pytest.mark.parametrize(("title", "target"), ALL, ids=[f"{t}-{q['refId']}" for t, q in ALL])
def test_metrics_and_labels_exist(title: str, target: dict[str, Any]) -> None:
    known, expr = documented(), target["expr"]
    metrics = asked(expr)
    assert metrics
    assert metrics.keys() <= known.keys()
    labels = set.union(*(known[name][1] for name in metrics)) | _OF_PROMETHEUS
    if "_bucket{" in expr:
        labels.add("le")
    for name, selector in metrics.items():
        of_metric = known[name][1] | _OF_PROMETHEUS
        assert set(re.findall(r"(\w+)(?:=~|!~|!=|=)", selector)) <= of_metric, expr
        assert 'job=~"$job"' in selector, expr
    grouped = {label for by in re.findall(r"by \(([^)]*)\)", expr) for label in by.split(", ")}
    assert grouped <= labels, expr
    shown = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
    # What an aggregation has taken away cannot be shown.
    left = grouped if re.search(r"\b(sum|max|min|count)\b", expr) else labels
    assert shown <= left, expr
    assert set(re.findall(r"\$(?!__)(\w+)", expr)) <= VARIABLES.keys()


@pytest.mark.parametrize(("title", "target"), ALL, ids=[f"{t}-{q['refId']}" for t, q in ALL])
def test_counters_are_rated_and_gauges_are_not(title: str, target: dict[str, Any]) -> None:
    known, expr = documented(), target["expr"]
    rated = {family_of(name) for name in re.findall(r"(?:rate|increase)\((\w+)", expr)}
    for name in asked(expr):
        assert (known[name][0] != "gauge") is (name in rated), expr
    # Figures of the database are the same in every process.
    for name in asked(expr):
        if name.startswith(("relay_source_", "relay_queue_", "relay_inbox_")):
            assert re.search(rf"max(?: by \(source\) )?\({name}", expr), expr
    assert expr.count("(") == expr.count(")")


def test_every_metric_is_drawn() -> None:
    drawn = {name for panel in PANELS for expr in exprs(panel) for name in asked(expr)}
    assert documented().keys() - drawn == _NOT_DRAWN


def test_each_part_has_its_row() -> None:
    assert [row["title"] for row in ROWS] == [
        "At a glance",
        "Receiver",
        "Forwarder",
        "Kafka",
        "PostgreSQL",
        "Snapshots",
        "Processes",
    ]
    assert all(f"| {row['title']} |" in DOCUMENT for row in ROWS)


def test_a_panel_explains_itself() -> None:
    for panel in PANELS:
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        legends = [target["legendFormat"] for target in panel["targets"]]
        assert len(set(legends)) == len(legends), panel["title"]
        assert panel["type"] == "stat" or all(legends), panel["title"]
        # What is unknown is a dash, never 0.
        if panel["type"] == "stat":
            assert panel["fieldConfig"]["defaults"]["noValue"] == "-"
        else:
            assert panel["fieldConfig"]["defaults"]["custom"]["spanNulls"] is False


def test_the_alerts_that_it_names_exist() -> None:
    alerts = re.findall(r"^\| `(Relay\w+)` \|", DOCUMENT, re.MULTILINE)
    named = {name for panel in PANELS for name in re.findall(r"Relay\w+", panel["description"])}
    assert named
    assert named <= set(alerts)


def test_it_looks_where_it_is_told_to() -> None:
    assert VARIABLES["datasource"]["type"] == "datasource"
    wanted = {"type": "prometheus", "uid": "${datasource}"}
    asking = [*PANELS, *(target for panel in PANELS for target in panel["targets"])]
    asking += [each for each in VARIABLES.values() if each["type"] == "query"]
    assert all(each["datasource"] == wanted for each in asking)
    for variable in ("job", "instance", "source"):
        query = VARIABLES[variable]["query"]["query"]
        (metric,) = asked(query)
        assert query.endswith(f", {variable})")
        assert variable in documented()[metric][1] | _OF_PROMETHEUS


def test_panels_lie_beside_each_other() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    for a, b in itertools.combinations(places, 2):
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        below = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert beside or below, (a, b)
    assert all(each["x"] + each["w"] <= 24 for each in places)
