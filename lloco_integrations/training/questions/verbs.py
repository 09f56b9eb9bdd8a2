"""Forms of common English verbs, so that "broke" can be asked for as "did ... break"."""

from __future__ import annotations

import re
from dataclasses import dataclass

_REGULAR = """
abandon accept account achieve acquire act adapt add address adjust admit adopt advise affect agree aim allow amend announce answer appear
apply appoint approach approve argue arrange arrest arrive ask assess assign assist assume attach attack attempt attend attract avoid
award ban base believe belong benefit block board borrow bother breathe burn bury calculate call campaign cancel capture care carry
cause celebrate chain change charge charter check claim clean clear climb close collapse collect combine command commission commit compare
compete complain complete compose comprise conceal concern conclude conduct confirm connect conquer consider consist construct consult
consume contain continue contract contribute control convert convey convince cook cool copy correct correspond count cover crack crash
create cross damage dance date decide declare decline decorate defeat defend define deliver demand demolish demonstrate deny depart
depend deposit derive describe deserve design destroy detect determine develop devote die differ direct disagree disappear discover discuss
dismiss display dissolve distribute divide divorce dominate donate drop dry earn educate elect eliminate emerge emigrate employ enable
encourage end endorse enforce engage enjoy enlarge enlist ensure enter equip escape establish estimate evaluate evolve examine exceed
exchange exclude execute exhibit exist expand expect experience expire explain explode explore export express extend face fail favour fear
feature fill film finance finish fire fit fix float flow focus follow force form found free fulfil function gain gather generate
govern graduate grant greet guarantee guard guide handle happen harm hate head heal heat help hire honour host house hunt identify
ignore illustrate imagine implement import impose impress imprison improve include incorporate increase indicate influence inform inherit
initiate injure insist inspect inspire install instruct insure intend introduce invade invent invest investigate invite involve issue join
judge jump justify kick kill knock label lack land last laugh launch lecture license lift limit link list listen live load locate
lock look love lower maintain manage manufacture march mark marry master match mature measure melt mention merge migrate mine miss mix
modify monitor mount move murder name need negotiate nominate note notice notify number obey object observe obtain occupy occur offer open
operate oppose order organise organize originate owe own pack paint park participate pass paste perform permit persuade place plan
plant play point polish possess post pour practise praise pray precede predict prefer prepare present preserve press prevent print proceed
process produce prohibit promise promote prompt propose protest protect prove provide publish pull pump purchase pursue push qualify
question raise range rank reach react realise realize receive recognise recognize recommend record recover recruit reduce refer reflect
refuse regard register regulate reject relate release rely remain remember remind remove rename rent reopen repair repeat replace reply
report represent request require rescue research resemble reserve resign resist resolve respond rest restore restrict result resume retain
retire return reveal reverse review revise revive reward risk roll rotate rule sack sail sample save scan score search seat secure seem
select separate serve settle shape share ship shout sign signal slip smile smoke solve sort span spark specify spell sponsor stage start
state stay step stop store stretch struggle study submit succeed suffer suggest suit supervise supply support surprise surrender surround
survive suspect suspend swap switch talk target taste tend terminate test thank threaten tie time touch tour trace track trade train
transfer transform translate transmit transport travel treat trigger trust try turn type unite unveil update upgrade urge use utilise
utilize value vanish vary view visit vote wait walk want warn wash waste watch weigh welcome widen wish witness work worry wrap yield
"""
_DOUBLED = "admit ban commit control drop equip fit fulfil occur permit plan prefer refer scan slip step stop submit swap transfer wrap"
_ALSO_DOUBLED = "cancel focus label signal travel"
_IRREGULAR = """
arise:arose:arisen be:was:been bear:bore:born beat:beat:beaten become:became:become begin:began:begun bind:bound:bound bite:bit:bitten
blow:blew:blown break:broke:broken breed:bred:bred bring:brought:brought build:built:built burst:burst:burst buy:bought:bought
cast:cast:cast catch:caught:caught choose:chose:chosen cling:clung:clung come:came:come cost:cost:cost creep:crept:crept cut:cut:cut
deal:dealt:dealt dig:dug:dug do:did:done draw:drew:drawn drink:drank:drunk drive:drove:driven eat:ate:eaten fall:fell:fallen
feed:fed:fed feel:felt:felt fight:fought:fought find:found:found flee:fled:fled fly:flew:flown forbid:forbade:forbidden
forget:forgot:forgotten freeze:froze:frozen get:got:got give:gave:given go:went:gone grind:ground:ground grow:grew:grown
hang:hung:hung have:had:had hear:heard:heard hide:hid:hidden hit:hit:hit hold:held:held hurt:hurt:hurt keep:kept:kept know:knew:known
lay:laid:laid lead:led:led learn:learnt:learnt learn:learned:learned leave:left:left lend:lent:lent let:let:let lie:lay:lain
light:lit:lit lose:lost:lost make:made:made mean:meant:meant meet:met:met overtake:overtook:overtaken pay:paid:paid put:put:put
quit:quit:quit read:read:read rebuild:rebuilt:rebuilt rewrite:rewrote:rewritten ride:rode:ridden ring:rang:rung rise:rose:risen
run:ran:run say:said:said see:saw:seen seek:sought:sought sell:sold:sold send:sent:sent set:set:set sew:sewed:sewn shake:shook:shaken
shed:shed:shed shine:shone:shone shoot:shot:shot show:showed:shown shrink:shrank:shrunk shut:shut:shut sing:sang:sung sink:sank:sunk
sit:sat:sat sleep:slept:slept slide:slid:slid speak:spoke:spoken spend:spent:spent spin:spun:spun split:split:split
spread:spread:spread stand:stood:stood steal:stole:stolen stick:stuck:stuck strike:struck:struck sweep:swept:swept swim:swam:swum
swing:swung:swung take:took:taken teach:taught:taught tear:tore:torn tell:told:told think:thought:thought throw:threw:thrown
undergo:underwent:undergone understand:understood:understood undertake:undertook:undertaken wake:woke:woken wear:wore:worn
weave:wove:woven win:won:won wind:wound:wound withdraw:withdrew:withdrawn write:wrote:written
"""
_NO_PARTICIPLES = ("hundred", "indeed", "sacred", "naked", "wicked")


@dataclass(frozen=True)
class Form:
    """What a word is as a verb; ``present`` is the third person singular."""

    base: str
    past: bool = False
    participle: bool = False
    present: bool = False


def form(word: str) -> Form | None:
    """What ``word`` is as a verb, if it is one that we know."""
    return _FORMS.get(word)


def is_finite_form(word: str) -> bool:
    """Whether it may be the verb of a clause, as "rolls" and "rolled" may."""
    known = _FORMS.get(word)
    return known is not None and (known.past or known.present)


def is_participle(word: str) -> bool:
    """Whether ``word`` may stand after "was"; unknown ones end in -ed."""
    known = _FORMS.get(word)
    return known.participle if known else bool(re.fullmatch(r"[a-z-]{3,}ed", word)) and word not in _NO_PARTICIPLES


def _pasts(base: str) -> tuple[str, ...]:
    if base.endswith("e"):
        return (base + "d",)
    if base.endswith("y") and base[-2] not in "aeiou":
        return (base[:-1] + "ied",)
    if base in _DOUBLED.split():
        return (base + base[-1] + "ed",)
    return (base + base[-1] + "ed", base + "ed") if base in _ALSO_DOUBLED.split() else (base + "ed",)


def _third_person(base: str) -> str:
    if base in ("have", "be"):
        return "has" if base == "have" else "is"
    if base.endswith(("s", "x", "z", "ch", "sh", "o")):
        return base + "es"
    return base[:-1] + "ies" if base.endswith("y") and base[-2] not in "aeiou" else base + "s"


def _all_forms() -> dict[str, Form]:
    kinds: dict[str, dict[str, bool]] = {}
    bases: dict[str, str] = {}
    irregular = [tuple(entry.split(":")) for entry in _IRREGULAR.split()]
    regular = [(base, past, past) for base in _REGULAR.split() for past in _pasts(base)]
    for base, past, participle in [*irregular, *regular]:
        for word, kind in ((past, "past"), (participle, "participle"), (_third_person(base), "present")):
            if bases.setdefault(word, base) == base:
                kinds.setdefault(word, {})[kind] = True
    return {word: Form(bases[word], **kind) for word, kind in kinds.items()}


_FORMS = _all_forms()
BASES = frozenset(known.base for known in _FORMS.values())
