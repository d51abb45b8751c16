"""`davatar doctor`."""

from __future__ import annotations

from davatar.cli import console
from davatar.core.errors import VerificationError


def command() -> None:
    """Examine this installation: packages, device, memory, disk, assets, backends, plugins."""
    from davatar.checks.doctor import examine

    findings = examine()
    rows = [[f.name, f.state, f.text + (f" ({f.mend})" if f.mend else "")] for f in findings]
    console.table(["what", "state", ""], rows)
    console.result([vars(finding) for finding in findings])
    bad = [finding.name for finding in findings if finding.state == "bad"]
    if bad:
        raise VerificationError(f"this installation has trouble with {', '.join(bad)}", mend="see the table above")
