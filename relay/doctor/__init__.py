"""`relay doctor`: looks for what is wrong, and says what to do about it.

A check is a function that asks for facts, and a pure one beside it that judges them. Facts come
from ``relay.store`` and ``relay.kafka``.
"""

from relay.doctor.configuration import load_what_can_be
from relay.doctor.examination import CHECKS, examine
from relay.doctor.finding import VERDICTS, Result, Verdict, overall
from relay.doctor.patient import Patient

__all__ = [
    "CHECKS",
    "VERDICTS",
    "Patient",
    "Result",
    "Verdict",
    "examine",
    "load_what_can_be",
    "overall",
]
