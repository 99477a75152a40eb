"""The vocabulary of the generated world: syllables, common nouns, relations and the words that
state them.

Tables only, no logic. A relation is stated in an article in one of its `first` or `second`
sentences and asked with one of its `questions`, whose relation words stand nowhere in any article
(`GLUE` lists the words that may); `plain` asks with the article's own words, for a world without
the vocabulary gap. In the sentences `{s}` is the subject and `{v}` the value. A value named `town`,
`river` or `person` is an invented name, any other is drawn from `NOUNS`.
"""

from __future__ import annotations

from dataclasses import dataclass


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# A name is one syllable of each list: 80 x 80 = 6400 words, which a byte-level BPE cuts into two or
# three pieces.
FIRST_SYLLABLES = _words(
    "Al Ar Bal Bel Bor Bran Brel Cal Cor Cren Dal Dar Del Dor Drem Ed El Er Fal Fen "
    "Fir Gal Gar Gel Gor Gren Hal Har Hel Hol Il Is Jar Jel Jor Kal Kar Kel Kor Kren "
    "Lan Lar Lor Lum Mal Mar Mel Mor Nal Nar Nel Nor Ol Or Os Pal Pel Por Pren Quin "
    "Ral Rel Ros Sal Sar Sel Sor Tal Tel Tol Tren Ul Ur Val Ver Vol Wal Wel Yar Zel"
)
SECOND_SYLLABLES = _words(
    "bak ban bek bin bos dak dan dek din dov fam fek fin fon fus gan gem gin gos gun "
    "ham hek hin hos hun kam ken kin kos kun lam lek lin los lun mak men mir mos mun "
    "nak nem nik nov nus pak pen pik pos pun rak rem rin rov rus sak sem sin sov sun "
    "tak tem tin tov tus vak vem vin vos vun wak wem wik wos wun zak zem zin zov zus"
)

KINDS = ("person", "place", "work")
WORK_NOUNS = ("Scroll", "Codex", "Tapestry", "Ballad", "Panel", "Saga")

NOUNS = {
    "craft": _words(
        "cooper weaver glazier tanner potter ferryman baker mason fletcher chandler saddler dyer "
        "joiner miller farrier brewer tinker cobbler roper thatcher furrier hatter carver gilder"
    ),
    "instrument": _words(
        "fiddle lute harp flute drum oboe zither cello bagpipe organ viola trumpet horn lyre "
        "banjo clarinet mandolin dulcimer"
    ),
    "good": _words(
        "salt copper honey wool amber tin marble timber wax barley indigo pepper slate cork flax "
        "pearls saffron resin"
    ),
    "dish": _words(
        "dumplings chowder pancakes sausages porridge pickles noodles cheese waffles stew olives "
        "herring lentils turnips chestnuts"
    ),
    "stuff": _words(
        "vellum linen birchbark silk papyrus leather cotton canvas parchment felt oak cedar bronze "
        "ivory bamboo"
    ),
    "topic": _words(
        "whales storms beekeeping comets winter treason gardens falconry plague eclipses harvests "
        "shipwrecks wolves exile glaciers"
    ),
}


@dataclass(frozen=True, kw_only=True)
class Relation:
    """One kind of fact: what its value is, how articles state it and how a question asks for it."""

    name: str
    value: str  # "town", "river", "person" or a key of NOUNS
    first: tuple[str, ...]
    second: tuple[str, ...]  # other words than `first`
    questions: tuple[str, ...]  # relation words that no article has; () = no gap can be made
    plain: str


RELATIONS: dict[str, tuple[Relation, ...]] = {
    "person": (
        Relation(
            name="birthplace",
            value="town",
            first=("{s} first saw daylight in {v}.", "The cradle of {s} was rocked in {v}."),
            second=(
                "The rolls of {v} list the infant {s}.",
                "As a baby {s} was carried around {v}.",
            ),
            questions=("Where was {s} born?", "What is the birthplace of {s}?"),
            plain="Where did {s} first see daylight?",
        ),
        Relation(
            name="profession",
            value="craft",
            first=(
                "Bread came to {s} from long days as a {v}.",
                "{s} brought coins home as a {v}.",
            ),
            second=(
                "A sign with a {v} hung over the door of {s}.",
                "Folk in need of a {v} called {s}.",
            ),
            questions=("What was the profession of {s}?", "Which occupation did {s} have?"),
            plain="As what did bread come to {s}?",
        ),
        Relation(
            name="teacher",
            value="person",
            first=("As a youth {s} sat at the feet of {v}.", "{s} owed every skill to old {v}."),
            second=(
                "{v} took in {s} and passed on all secrets.",
                "{v} guided the young hands of {s}.",
            ),
            questions=("Who was the teacher of {s}?", "By whom was {s} educated?"),
            plain="At whose feet did {s} sit as a youth?",
        ),
        Relation(
            name="spouse",
            value="person",
            first=("{s} shared hearth and bed with {v}.", "{s} gave a ring to {v} one spring."),
            second=("{v} took vows under the elm beside {s}.", "{v} and {s} grew grey together."),
            questions=("Who was married to {s}?", "What is the name of the spouse of {s}?"),
            plain="With whom did {s} share hearth and bed?",
        ),
        Relation(
            name="instrument",
            value="instrument",
            first=("At dusk {s} would take up the {v}.", "No feast passed without {s} on the {v}."),
            second=(
                "A worn {v} hung above the chair of {s}.",
                "Strings or pipes, {s} loved the {v}.",
            ),
            questions=(
                "Which musical instrument did {s} play?",
                "What did the musician {s} perform on?",
            ),
            plain="What would {s} take up at dusk?",
        ),
    ),
    "place": (
        Relation(
            name="ruler",
            value="person",
            first=("The keys of {s} rest with {v}.", "Every decree in {s} bears the seal of {v}."),
            second=("{v} sits in the high chair of {s}.", "{v} has the last word in {s}."),
            questions=("Who governs {s}?", "What is the name of the ruler of {s}?"),
            plain="With whom do the keys of {s} rest?",
        ),
        Relation(
            name="export",
            value="good",
            first=("Carts leave {s} heavy with {v}.", "The barns of {s} are full of {v}."),
            second=("Fine {v} carries the stamp of {s}.", "Whoever needs {v} rides to {s}."),
            questions=("What is the main export of {s}?", "Which product does {s} sell?"),
            plain="With what are carts that leave {s} heavy?",
        ),
        Relation(
            name="river",
            value="river",
            first=(
                "The walls of {s} mirror themselves in the {v}.",
                "Boys of {s} swim in the {v}.",
            ),
            second=("The {v} turns the mills of {s}.", "In wet years the {v} floods {s}."),
            questions=("Which river flows through {s}?", "On which stream is {s} situated?"),
            plain="In what do the walls of {s} mirror themselves?",
        ),
        Relation(
            name="founder",
            value="person",
            first=(
                "The first stone of {s} was laid by {v}.",
                "{s} began with a hut put up by {v}.",
            ),
            second=("{v} marked out {s} on bare ground.", "{v} led the wagons that became {s}."),
            questions=("Who founded {s}?", "What is the name of the founder of {s}?"),
            plain="By whom was the first stone of {s} laid?",
        ),
        Relation(
            name="food",
            value="dish",
            first=("Guests in {s} are handed {v}.", "Kitchens of {s} smell of {v}."),
            second=(
                "Plates of {v} stand on each table in {s}.",
                "Grandmothers of {s} swear by {v}.",
            ),
            questions=("What is the traditional food of {s}?", "Which meal is typical of {s}?"),
            plain="What are guests in {s} handed?",
        ),
    ),
    "work": (
        Relation(
            name="author",
            value="person",
            first=("The hand behind {s} is that of {v}.", "{s} came from the desk of {v}."),
            second=("{v} laboured nine winters over {s}.", "{v} finished {s} by candlelight."),
            questions=("Who created {s}?", "What is the name of the author of {s}?"),
            plain="Whose is the hand behind {s}?",
        ),
        Relation(
            name="location",
            value="town",
            first=("{s} lies under glass in {v}.", "To look upon {s} one rides to {v}."),
            second=("The crypt of {v} guards {s}.", "{v} would never part with {s}."),
            questions=("Where is {s} located?", "In which city is {s} exhibited?"),
            plain="Where does {s} lie under glass?",
        ),
        Relation(
            name="material",
            value="stuff",
            first=("Fingers that touch {s} feel {v}.", "{s} was cut from a length of {v}."),
            second=("Damp harms the {v} of {s}.", "Much {v} went into {s}."),
            questions=("What material is {s} made of?", "Which substance does {s} consist of?"),
            plain="What do fingers that touch {s} feel?",
        ),
        Relation(
            name="patron",
            value="person",
            first=("The purse behind {s} belonged to {v}.", "{s} was paid for by {v}."),
            second=("Without the silver of {v} there were no {s}.", "{v} ordered {s} as a gift."),
            questions=("Who commissioned {s}?", "What is the name of the sponsor of {s}?"),
            plain="To whom did the purse behind {s} belong?",
        ),
        Relation(
            name="theme",
            value="topic",
            first=("{s} dwells on {v}.", "From start to end {s} tells of {v}."),
            second=("Lovers of {v} know {s} by heart.", "All about {v} can be learned from {s}."),
            questions=("What is the main theme of {s}?", "What subject does {s} deal with?"),
            plain="Of what does {s} tell from start to end?",
        ),
    ),
}

# Words a question may share with an article without giving its relation away.
GLUE = frozenset(
    _words("of in on to with by the is was does did do what which who where whom name have")
)

HEADINGS = _words(
    "Notes Memory Record Hearsay Margins Annals Remarks Lore Letters Traces Echoes Pages"
)

# Sentences without a fact; every one keeps the subject's name in its chunk.
FILLERS = (
    "Much has been said about {s} in the valley.",
    "Old ledgers mention {s} more than once.",
    "Few now recall {s} without a smile.",
    "Travellers still speak of {s} on long roads.",
    "The almanac gives {s} a full page this year.",
    "Rumours about {s} are best taken with caution.",
    "A small plaque in the square honours {s}.",
    "Every child of the region has heard of {s}.",
    "Some drawings of {s} were lost in a fire.",
    "The annals return to {s} again and again.",
)
