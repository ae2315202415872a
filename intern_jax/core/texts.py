"""Numbers as texts that tables, plots, pages and file names share. Only the standard library is imported."""


def percent(fraction: float) -> str:
    """A share as a percentage without needless digits: "10%", "0.5%"."""
    return f"{100 * fraction:g}%"


def duration(seconds: float) -> str:
    """Seconds in hours and minutes: "2 h 11 min", "5 min 40 s", "58 min", "6.8 s"."""
    if seconds < 60:
        return f"{seconds:g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [f"{hours} h"] * bool(hours) + [f"{minutes} min"] * bool(minutes)
    return " ".join(parts + [f"{rest} s"] * bool(rest))
