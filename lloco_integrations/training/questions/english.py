"""A little English: words with a part to play, words that tell persons from things, numbers and dates."""

from __future__ import annotations

import re


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


BE = _words("is was are were")
AUXILIARIES = BE | _words("has had have can could may might must will would should shall does did do")
ADVERBS = _words(
    "also now then still once never always often usually first later soon finally again already only just even currently originally formerly "
    "eventually probably generally normally mainly officially not nearly rarely seldom sometimes previously recently together immediately "
    "initially largely widely commonly typically subsequently therefore however thus instead afterwards indeed moreover furthermore likewise"
)
PRONOUNS = _words(
    "i it he she they we you this that these those there here its his her their our my your who whom whose which what one some someone "
    "anyone everyone nobody none nothing something anything everything everybody somebody others another other such both either neither "
    "all many most few several much more so each"
)
BOUNDARY = _words(
    "who which whose whom that when while because where although though after before unless if so but as than whether how why what "
    "whenever wherever until since once and or nor with"
)
PREPOSITIONS = _words(
    "in on at by for from to into onto of with without under over above below between among through during across along against around "
    "behind beside beyond near off out since until till towards toward upon within up down about as per than via inside outside"
)
FUNCTION_WORDS = PREPOSITIONS | BOUNDARY | AUXILIARIES | ADVERBS | PRONOUNS

ROLES = _words(
    "director president chairman chair chief captain king queen prince princess bishop priest pope saint emperor minister secretary mayor "
    "governor senator judge lawyer doctor nurse surgeon physician teacher schoolteacher professor lecturer scientist astronomer chemist "
    "physicist engineer mechanic builder architect artist painter sculptor writer author novelist poet journalist editor publisher composer "
    "singer musician actor actress dancer filmmaker producer designer inventor founder co-founder owner manager officer bursar treasurer "
    "accountant clerk keeper archivist librarian curator guide assistant deputy apprentice student pupil cook chef baker butcher farmer "
    "gardener shepherd miner sailor fisherman pilot driver soldier general colonel major lieutenant sergeant admiral commander policeman "
    "detective carpenter mason smith blacksmith plumber postman shopkeeper merchant trader contractor optician jeweller potter weaver tailor "
    "mathematician historian philosopher economist analyst leader member widow widower wife husband son daughter sister brother mother "
    "father uncle aunt niece nephew cousin grandson granddaughter grandfather grandmother friend boy girl man woman lord lady sir dame duke "
    "duchess count countess earl baron heir explorer missionary athlete player coach champion programmer developer ceo technician observer "
    "hermit villager nun monk witness hunter messenger signalman people person child children visitor guest traveller traveler walker "
    "customer user employee worker resident citizen porter men women newcomer trustee volunteer"
)
PERSONAL = _words(
    "said says wrote writes married joined retired resigned died lived lives thinks thought believed believes asked told taught studied "
    "graduated smiled laughed felt insisted noticed remembered remembers refused argued explained replied claimed spoke slept "
    "worked travelled traveled bought wore lent noted invented persuaded"
)
TITLES = _words("mr mrs ms miss dr prof professor sir dame lord lady captain king queen saint president")
THINGS = _words(
    "college university school institute academy observatory museum library hospital church chapel cathedral abbey trust company corporation "
    "council committee department ministry agency association society union party league club team army navy fund bank island islands isle "
    "river lake sea ocean bay sound tarn tor hill hills mount mountain mountains valley forest wood park garden gardens street road lane "
    "avenue bridge tower dome hall house castle palace station airport port harbour beach bend cape point city town village county state "
    "republic kingdom empire war battle treaty act law agreement award prize cup bill north south east west project programme program "
    "system protocol server version model engine theory method algorithm telescope reflector refractor spectrograph brothers sons "
    "daughters ltd inc plc gmbh press times journal review magazine day night week endowment endowments sands well meadow "
    "nab yard quarry software api northern southern eastern western northeastern northwestern southeastern southwestern central states "
    "america africa europe asia australia china india japan france germany italy spain russia canada britain england scotland wales ireland"
)
FIRMS = _words("brothers sons daughters company corporation ltd inc plc college university council committee department ministry trust")
MONTHS = _words("january february march april may june july august september october november december")
WEEKDAYS = _words("monday tuesday wednesday thursday friday saturday sunday")
UNITS_OF_TIME = _words("seconds minutes hours days nights weeks months years decades centuries")
_PLURALS = _words("people men women children mice feet sheep teeth geese oxen lives wives")
_NO_PLURALS = _words("thirds quarters halves fifths times others was has this its less always across perhaps")

_ONES = "two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|eighteen|nineteen"
_TENS = "twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety"
_SPELT = rf"(?:(?:{_TENS})(?:-(?:one|{_ONES}))?|{_ONES})(?:[ -](?:hundred|thousand|million|billion))?"
NUMBER = rf"(?:\d(?:[\d,]*\d)?(?:\.\d+)?(?: (?:hundred|thousand|million|billion|trillion))?|{_SPELT})"

_MONTH = "(?:January|February|March|April|May|June|July|August|September|October|November|December)"
_YEAR = r"(?:1[0-9]|20)\d\d(?![\d,.]*\d|s)"
_ORDINAL = "(?:first|second|third|[a-z]+(?:-[a-z]+)?th|twenty-first|thirty-first|twenty-second|twenty-third)"
_DATES = (
    (rf"\d{{1,2}}(?:st|nd|rd|th)? {_MONTH}(?:,? {_YEAR})?", "day"),
    (rf"{_MONTH} \d{{1,2}}(?:st|nd|rd|th)?(?:, {_YEAR})?(?!\d)", "day"),
    (r"\d{4}-\d\d-\d\d", "day"),
    (rf"the {_ORDINAL} of {_MONTH}(?: {_YEAR})?", "day"),
    (rf"(?:early |late )?{_MONTH} {_YEAR}", "time"),
    (rf"the (?:spring|summer|autumn|fall|winter|end|beginning|middle) of {_YEAR}", "time"),
    (_YEAR, "year"),
)
DATE = "|".join(pattern for pattern, _ in _DATES)


def kind_of_date(date: str) -> str:
    """day, year, or time for anything between."""
    return next(kind for pattern, kind in _DATES if re.fullmatch(pattern, date))


def is_plural(word: str) -> bool:
    """Whether a noun counts more than one, by its look."""
    looks = len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is"))
    return word in _PLURALS or (looks and word not in _NO_PLURALS)


def is_number(word: str) -> bool:
    return re.fullmatch(NUMBER, word.lower()) is not None
