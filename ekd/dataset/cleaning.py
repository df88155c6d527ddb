r"""One spelling for what people and models write in many ways. Text in, text out: no step changes a value.

`clean` is a pipeline; each step is named for what it settles and knows nothing of the others but their order:
characters first (full-width digits, fractions, roots), then commands (styles, fractions, currencies), then blanks.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache

_PLAIN = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")  # most answers: nothing to settle
_GREEK = "alpha beta gamma delta theta lambda pi rho sigma tau phi omega"
_SYMBOLS = str.maketrans(
    {
        **dict.fromkeys("−–—‐‑﹣", "-"),
        **dict.fromkeys("\u00a0\u2002\u2003\u2007\u2008\u2009\u200a\u202f\u205f\u3000", r"\,"),  # blanks of all widths
        **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u200e\u200f\u00ad", ""),  # seen by no reader
        **dict.fromkeys("、،", ","),
        **dict.fromkeys("·⋅∙", r"\cdot "),
        **dict.fromkeys("≤≦⩽", r"\leq "),
        **dict.fromkeys("≥≧⩾", r"\geq "),
        **dict.fromkeys("“”„«»「」『』", '"'),
        **dict.fromkeys("°˚º", " degrees "),
        "×": r"\times ",
        "÷": r"\div ",
        "±": r"\pm ",
        "≈": r"\approx ",
        "≠": r"\neq ",
        "∞": r"\infty ",
        "∪": r"\cup ",
        "∩": r"\cap ",
        "∈": r"\in ",
        "∅": r"\emptyset ",
        "。": ".",
        "…": "...",
        "’": "'",
        "℃": " degrees C",
        "℉": " degrees F",
        **{sign: rf"\{name} " for sign, name in zip("αβγδθλπρστφω", _GREEK.split(), strict=True)},
    }
)
_WIDE = re.compile("[！-～￠-￦﹐-﹫]+")  # full-width ASCII and signs, and their small forms
_ONE_CHARACTER_FRACTION = re.compile("[¼-¾⅐-⅞↉]")
_RAISED = re.compile("[⁰¹²³⁴-⁹⁺⁻]+")
_LOWERED = re.compile("[₀-₉]+")
_ROOT = re.compile(
    r"(?P<kind>[√∛∜])\s*(?:\((?P<inner>[^()]*)\)|\{(?P<group>[^{}]*)\}|(?P<plain>\d+(?:\.\d+)?|[A-Za-z]))"
)
_ROOT_NAME = {"√": r"\sqrt", "∛": r"\sqrt[3]", "∜": r"\sqrt[4]"}
_SLASHED = re.compile(r"(?<![\d.])(\d{1,9})[⁄∕](\d{1,9})(?!\d)")

_STYLE = (
    "text|mbox|hbox|fbox|boxed|math(?:rm|bf|it|sf|tt|normal|ord)|text(?:bf|rm|it|sf|tt|normal|sc|up|md)|emph|operatorname"
    "|boldsymbol|bm|pmb|bold|underline|uline|uuline|underbar|ensuremath|displaystyle|textstyle"
)
_SWITCH = (
    "bf|it|rm|sf|tt|sl|em|bfseries|itshape|rmfamily|upshape|boldmath|tiny|scriptsize|footnotesize|small|normalsize|large"
    "|Large|LARGE|huge|Huge|displaystyle|textstyle|scriptstyle|limits|centering"
)
_GROUP_MARK = re.compile(
    rf"(?P<style>\\(?:{_STYLE})\s*\*?\s*\{{|\\(?:textcolor|colorbox)\s*(?:\[\w+\])?\{{[^{{}}]{{0,40}}\}}\s*\{{"
    rf"|(?<![A-Za-z}}\]^_])\{{\s*(?=\\(?:{_SWITCH}|color)(?![A-Za-z])))|\\.|[{{}}]",
    re.DOTALL,
)
_SWITCHES = re.compile(rf"\\(?:{_SWITCH})(?![A-Za-z])|\\color\s*(?:\[\w+\])?\{{[^{{}}]{{0,40}}\}}")
_INVISIBLE = re.compile(
    r"\\(?:left|right|[bB]igg?[lrm]?)(?![A-Za-z])\.?|\\(?:tag|label|hspace|vspace|phantom)\*?\{[^{}]*\}"
    r"|\\(?:therefore|implies|Rightarrow|to|strut|null)(?![A-Za-z])\s*(?=[\d$\\-])"
)
_TAGGED = re.compile(r"<(\w{1,20})>(.*?)</\1>", re.DOTALL)
_FRACTION_NAME = re.compile(r"\\(?:[dtcxs]|nice|sl|vari)frac(?![A-Za-z])(?:\[[^\]]*\])?")
_FRACTION = re.compile(r"\\frac\s*(?:\{([^{}]*)\}|(\d))\s*(?:\{([^{}]*)\}|(\d))")
_OVER = re.compile(r"\{([^{}]*?)\\over(?![A-Za-z])([^{}]*)\}|^([^{}]*?)\\over(?![A-Za-z])([^{}]*)$")
_CURRENCY = re.compile(
    r"\b(?:US|CA?|AU?|HK|NT|NZ|S|R)(?=\\?\$\s*\d)|\\?\$|[€£¥₹₩₽₫₱₺₦₪฿₿¢]"
    r"|\\(?:pounds|euro|yen|rupee|cent|text(?:dollar|euro|sterling|yen|cent|won)|EUR|dollar)(?![A-Za-z])(?:\{\})?"
)
_MATH_MARKS = re.compile(r"\\[()\[\]]")
_DEGREES = re.compile(r"\^\s*(?:\{\s*\\(?:circ|degree)\s*\}|\\(?:circ|degree)(?![A-Za-z]))|\\degree(?![A-Za-z])")
_NO_BLANK = re.compile(r"(?<!\\)\\!\s*|\{\}")
_THIN = r"(?:(?<!\\)\\[,;: ]|[ ~])"
_THOUSANDS = re.compile(
    rf"(?<![\d.,^_/])(?<!\d )[1-9]\d{{0,2}}(?:(?:{_THIN}\s?|'|\{{,\}}\s*)\d{{3}})+(?!\d|\s*/|\s*\\frac|{_THIN}\d)"
)
_BLANK = re.compile(r"(?<!\\)\\[,;:> ]|~|\\q?quad(?![A-Za-z])|\\(?:thin|med|thick|en)?space(?![A-Za-z])")
_REPEATING = re.compile(
    r"(?P<head>\d*\.\d*)\\(?:overline|bar|dot)\s*(?:\{\s*(?P<group>\d{1,20})\s*\}|(?P<digit>\d))"
    r"(?:(?P<between>\d{0,18})\\dot\s*(?:\{\s*(?P<last>\d)\s*\}|(?P<end>\d)))?"
)
_GOES_ON = re.compile(r"(?P<head>\d*\.\d{0,20}?)(?P<block>\d{1,12}?)(?P=block){1,20}\s*(?:\.\.\.|\\[lc]?dots)")
_NEGATIVE = re.compile(r"^(?:negative|minus)\s+(?=[\d\\.])", re.IGNORECASE)
_LEQ = re.compile(r"\\le(?:q|qslant)?(?![A-Za-z])")
_GEQ = re.compile(r"\\ge(?:q|qslant)?(?![A-Za-z])")


@lru_cache(maxsize=1024)  # one answer is asked about a few times: does it say anything, is it a number, is it the same
def clean(text: str) -> str:
    """The spelling in which answers are compared."""
    if _PLAIN.fullmatch(text):
        return text
    for step in STEPS:
        text = step(text)
    return text


def narrow(text: str) -> str:
    """Full-width digits, letters and signs as ASCII."""
    return _WIDE.sub(lambda m: unicodedata.normalize("NFKC", m[0]), text)


def unicode_powers(text: str) -> str:
    """x² is x^{2}, x₁ is x_{1}."""
    text = _RAISED.sub(lambda m: "^{" + _digits(m[0]) + "}", text)
    return _LOWERED.sub(lambda m: "_{" + _digits(m[0]) + "}", text)


def unicode_fractions(text: str) -> str:
    r"""½ is \frac{1}{2}, and so is 1⁄2."""
    text = _ONE_CHARACTER_FRACTION.sub(lambda m: " " + unicodedata.normalize("NFKC", m[0]), text)
    return _SLASHED.sub(r"\\frac{\1}{\2}", text)


def unicode_roots(text: str) -> str:
    r"""√3 is \sqrt{3}, ∛(x+1) is \sqrt[3]{x+1}."""
    return _ROOT.sub(lambda m: f"{_ROOT_NAME[m['kind']]}{{{m['inner'] or m['group'] or m['plain'] or ''}}}", text)


def symbols(text: str) -> str:
    """Signs that have a name in LaTeX by that name; dashes as minus; invisible characters gone."""
    return text.translate(_SYMBOLS)


def halved_backslashes(text: str) -> str:
    r"""\\frac where JSON or a template doubled the backslash. Between the rows of a matrix it means a new row."""
    if r"\begin" in text:
        return text
    return re.sub(r"\\\\(?=[A-Za-z,;:!%$(){}\[\]])", r"\\", text)


def untagged(text: str) -> str:
    """<b>72</b> and <answer>72</answer> are 72."""
    return _TAGGED.sub(r"\2", text)


def unstyled(text: str) -> str:
    r"""\textbf{72}, \underline{72}, {\bf 72}, \textcolor{blue}{72} and \large 72 are 72: only the group's mark goes."""
    pieces, kept, end = [], [], 0  # kept: for each open group, whether its braces stay
    for match in _GROUP_MARK.finditer(text):
        mark = match.group()
        if match["style"] or mark == "{":
            kept.append(not match["style"])
        elif mark == "}" and kept:
            if kept.pop():
                continue
        else:
            continue
        if match["style"] or mark == "}":
            pieces += [text[end : match.start()], " "]
            end = match.end()
    return _SWITCHES.sub(" ", "".join(pieces) + text[end:])


def without_layout(text: str) -> str:
    r"""Without \left, \right, \big, \tag{1}, a leading \therefore: they change the look alone."""
    return _INVISIBLE.sub("", text)


def fractions(text: str) -> str:
    r"""\dfrac12, \nicefrac{1}{2} and {1 \over 2} are \frac{1}{2}."""
    text = _FRACTION_NAME.sub(r"\\frac", text)
    text = _OVER.sub(lambda m: rf"\frac{{{(m[1] or m[3] or '').strip()}}}{{{(m[2] or m[4] or '').strip()}}}", text)
    return _FRACTION.sub(lambda m: rf"\frac{{{m[1] or m[2] or ''}}}{{{m[3] or m[4] or ''}}}", text)


def without_currency(text: str) -> str:
    r"""Currency signs, dollar signs around mathematics, and \( \) \[ \]."""
    return _MATH_MARKS.sub("", _CURRENCY.sub("", text))


def degrees(text: str) -> str:
    r"""90^\circ is 90 degrees."""
    return _DEGREES.sub(" degrees ", text)


def thousands(text: str) -> str:
    r"""1\,234 and 1 234 and 1'234 are 1234: groups of three, and the first is not zero. 7 2 stays two numbers."""
    text = _NO_BLANK.sub("", text)
    return _THOUSANDS.sub(lambda m: re.sub(r"\D", "", m[0]), text).replace("{,}", ",")


def repeating(text: str) -> str:
    r"""0.1\overline{6}, 0.1\dot{6} and 0.1666... are 0.1(6)."""
    text = _REPEATING.sub(
        lambda m: f"{m['head']}({m['group'] or m['digit']}{m['between'] or ''}{m['last'] or m['end'] or ''})", text
    )
    return _GOES_ON.sub(r"\g<head>(\g<block>)", text)


def spaced(text: str) -> str:
    r"""Every kind of blank as one; none at the ends, and no lone backslash that a blank left behind ("72\ ")."""
    return re.sub(r"\\+$", "", " ".join(_BLANK.sub(" ", text).split())).strip()


def relations(text: str) -> str:
    r"""\le and \leqslant are \leq; \% is %; **72** is 72; minus 5 is -5."""
    text = _GEQ.sub(r"\\geq ", _LEQ.sub(r"\\leq ", text.replace(r"\%", "%").replace("**", "")))
    return _NEGATIVE.sub("-", " ".join(text.split()))


def bare(text: str) -> str:
    """Without quotation and markdown marks around it, the braces of a group that is the whole, and a last stop."""
    text = text.strip('*_`" ').rstrip(".,;: ").strip('*_`"')
    if text[:1] == "'":  # only where it opens, too: f' is a derivative
        text = text.strip("'")
    while len(text) > 1 and text[0] == "{" and text.find("}") == len(text) - 1:
        text = text[1:-1].strip()
    return text


STEPS: tuple[Callable[[str], str], ...] = (
    narrow,
    unicode_powers,
    unicode_fractions,
    unicode_roots,
    symbols,
    halved_backslashes,
    untagged,
    unstyled,
    without_layout,
    fractions,
    degrees,
    without_currency,
    thousands,
    repeating,
    spaced,
    relations,
    bare,
)


def _digits(raised: str) -> str:
    return unicodedata.normalize("NFKC", raised).replace("−", "-")
