"""Colours in pairs, for light and for dark pages, after Okabe and Ito's for every kind of colour vision."""

from __future__ import annotations

PAGE, INK, SOFT, LINE = "#fdfdfc", "#20242b", "#626a75", "#e3e5e8"
BAND, WIDE, TOPK, RANDOM, TEACHER_FREE, OTHER = "#0072b2", "#00835f", "#c2540a", "#7b828c", "#a8447f", "#8a6d00"
# viridis without its ends, thinned: a band's colour is its place, dark to bright on white, brighter on black
PLACES_LIGHT = [
    "#46337f",
    "#3d4d8a",
    "#31678e",
    "#26828e",
    "#1f9a8a",
    "#35ac7b",
    "#57b05f",
    "#7fae3c",
    "#9fa61f",
    "#b89a12",
]
PLACES_DARK = [
    "#9a86d8",
    "#8497dd",
    "#6fabde",
    "#55bdd2",
    "#45cdbd",
    "#5cd8a0",
    "#86e07f",
    "#b0e260",
    "#d6e24f",
    "#fde725",
]

DARK = {
    PAGE: "#16181c",
    INK: "#e8eaed",
    SOFT: "#9aa3ae",
    LINE: "#2f343b",
    BAND: "#56b4e9",
    WIDE: "#3fc79a",
    TOPK: "#f2975a",
    RANDOM: "#a2aab5",
    TEACHER_FREE: "#e08abb",
    OTHER: "#d9bb4a",
    **dict(zip(PLACES_LIGHT, PLACES_DARK, strict=True)),
}


def by_percentile(middle: float) -> str:
    """middle: of a band, 0 to 100."""
    return PLACES_LIGHT[min(9, max(0, int(middle / 10)))]


def variables(dark: bool) -> str:
    """CSS: one variable for each colour, named by its light value."""
    return " ".join(f"{variable(light)}: {DARK[light] if dark else light};" for light in DARK)


def variable(light: str) -> str:
    named = {PAGE: "page", INK: "ink", SOFT: "soft", LINE: "line"}
    return f"--{named.get(light, light.replace('#', 'c'))}"
