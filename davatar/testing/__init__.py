"""One battery per plugin contract; a plugin's own test is one line (design 6).

    def test_contract():
        check_metric(MyMetric())

Each battery raises `VerificationError` with what was expected and what was found. Imported by tests,
plugins and `davatar plugins check` only.
"""

from davatar.testing.captures import check_capture, check_opener
from davatar.testing.metrics import check_metric
from davatar.testing.plugins import check_plugin
from davatar.testing.rasterizers import check_rasterizer
from davatar.testing.scans import check_scans

__all__ = ["check_capture", "check_metric", "check_opener", "check_plugin", "check_rasterizer", "check_scans"]
