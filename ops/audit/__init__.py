"""The auditor: whether ledger and topics are whole, judged without any of the runner's code."""

from ops.audit.auditor import audit, to_json
from ops.audit.findings import Check, Fault
from ops.audit.report import CannotAudit, OpenQuestion, Report, RunReport
from ops.audit.topics import TopicCount

__all__ = [
    "CannotAudit",
    "Check",
    "Fault",
    "OpenQuestion",
    "Report",
    "RunReport",
    "TopicCount",
    "audit",
    "to_json",
]
