"""How long and how much, as people read it."""

from __future__ import annotations


def duration_words(seconds: float) -> str:
    """The two largest units, days from two on: ``2.5 s``, ``3 min 5 s``, ``2 h 13 min``, ``4 d 3 h``."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds == int(seconds) else f"{seconds:.1f} s"
    minutes, of_seconds = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min" + (f" {of_seconds} s" if of_seconds else "")
    hours, of_minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h" + (f" {of_minutes} min" if of_minutes else "")
    days, of_hours = divmod(hours, 24)
    return f"{days} d" + (f" {of_hours} h" if of_hours else "")


def bytes_words(count: float) -> str:
    """``512 B``, ``3.4 MiB``, ``120.0 GiB``; powers of 1,024 (IEC 80000-13)."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
