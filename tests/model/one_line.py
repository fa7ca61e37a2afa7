"""What every refusal of an input has in common."""

from flux_flex.errors import BadInput


def assert_reads_as_one_line(error: BadInput) -> None:
    for part in (error.what, error.where, error.remedy):
        assert "\n" not in part
        assert len(part) < 1000
