"""Numbers as texts that tables, plots, pages and file names share. Only the standard library is imported."""


def percent(fraction: float) -> str:
    """A share as a percentage without needless digits: "10%", "0.5%"."""
    return f"{100 * fraction:g}%"


def moment(stamp: str) -> str:
    """A date of ISO 8601 as people write it, in its own time zone: "2026-11-29 15:50 +00:00"."""
    date, _, time = stamp.partition("T")
    return f"{date} {time[:5]} {time[8:]}".strip()


def duration(seconds: float) -> str:
    """Seconds in hours and minutes: "2 h 11 min", "5 min 40 s", "58 min", "6.8 s"."""
    if seconds < 60:
        return f"{seconds:g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [f"{hours} h"] * bool(hours) + [f"{minutes} min"] * bool(minutes)
    return " ".join(parts + [f"{rest} s"] * bool(rest))
