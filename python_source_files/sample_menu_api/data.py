"""The restaurants, their dishes, and who serves what on which day.

All of it is invented. A menu is a pure function of restaurant and day: two days in a row never
give the same one, so an answer that is a day old shows. This file knows nothing of HTTP or JSON.
"""

from __future__ import annotations

import datetime
from collections.abc import Container
from typing import NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

EVERY_DAY = range(7)
WEEKDAYS = range(5)
MONDAY_TO_THURSDAY = range(4)
TUESDAY_TO_FRIDAY = range(1, 5)
NEVER = range(0)
"""The restaurant's own page cannot be read, which the API cannot tell from being closed."""

THURSDAY = 3


class Dish(NamedTuple):
    """One line of a menu; the price is in Swedish crowns."""

    text: str
    course: str
    price: float


class Restaurant(NamedTuple):
    """A restaurant; `open_days` holds weekday numbers (Monday is 0), `courses` names `COURSES`."""

    identifier: str
    name: str
    region: str
    coordinate: tuple[float, float]
    open_days: Container[int]
    courses: str
    standing: str = ""
    has_homepage: bool = True
    has_menu_page: bool = True

    @property
    def homepage(self) -> str:
        """The restaurant's own page, or an empty string when it has none."""
        return f"https://{self.identifier}.example/" if self.has_homepage else ""

    @property
    def menu_page(self) -> str:
        """The page its menu is read from, or an empty string."""
        return f"https://{self.identifier}.example/lunch" if self.has_menu_page else ""

    @property
    def map_page(self) -> str:
        """A map that shows where it is."""
        latitude, longitude = self.coordinate
        return f"https://karta.example/?plats={latitude},{longitude}"


COURSES: dict[str, tuple[str, ...]] = {
    "meat": (
        "Kalops på högrev med rödbetor, morötter & kokt potatis",
        "Wallenbergare med potatispuré, gröna ärter och rårörda lingon",
        "Pannbiff med löksås – serveras med saltgurka",
        "Fläsklägg med rotmos & tre sorters senap",
        "Raggmunk med stekt fläsk och lingon",
        "Kycklinggryta med dragon, ris & ugnsrostad fänkål",
        "Pytt i panna «på resterna» med stekt ägg",
        "Isterband med dillstuvad potatis",
        "Viltskavsgryta med enbär, svamp & pressad potatis",
        "Kåldolmar med gräddsås och gelé",
        "Bakad kycklinglårfilé – citron, timjan, örtyoghurt",
    ),
    "fish": (
        "Stekt strömming med potatismos, skirat smör & lingon",
        "Laxpudding med dillsmör",
        "Ugnsbakad torsk – brynt smör, pepparrot & räkor",
        "Sejpanett med remouladsås och citron",
        "«Västkustens» fiskgryta med saffran & aioli",
        "Gravad lax med hovmästarsås och dillslungad potatis",
        "Rödspätta med vitvinssås, sparris & örtpotatis",
        "Fiskbullar i hummersås – ris och ärter",
        "Sotad makrill med gräslöksgräddfil",
    ),
    "green": (
        "Vegetarisk lasagne med spenat & ricotta",
        "Rotfruktsbiffar med getost, honung och valnötter",
        "Svampstroganoff på skogschampinjoner – råris",
        "Linsgryta från södra Indien med kokos & koriander",
        "Halloumi «från grannens gård» med bulgur och rostad paprika",
        "Rödbetsbiff med pepparrotskräm & rostad potatis",
        "Gul ärtgryta med senap och ugnsbakad palsternacka (vegan)",
        "Kålpudding på gröna linser – lingon & gräddsås",
        "Kikärtsbollar med tahini, syrad lök & bröd (vegan)",
        "Broccoligratäng med västerbottensost",
    ),
    "soup": (
        "Jordärtskockssoppa med rostade hasselnötter",
        "Nässelsoppa – ägghalva & surdegsbröd",
        "Fisksoppa med saffran, räkor & vitlöksbröd",
        "Morotssoppa med ingefära och kokos (vegan)",
        "Gulaschsoppa med gräddfil",
        "Blomkålssoppa «à la mormor» med krutonger",
        "Svampsoppa med rågbröd & lagrad ost",
    ),
    "sweet": (
        "Äppelkaka med vaniljsås",
        "Ostkaka från Småland – sylt & grädde",
        "Rabarberpaj med havretäcke",
        "Kladdkaka & vispad grädde",
        "Blåbärssoppa med mandelskorpa",
    ),
}
PRICES = {"meat": 125.0, "fish": 135.0, "green": 115.0, "soup": 98.0, "sweet": 35.0}
STANDING_PRICE = 119.0
PEA_SOUP = "Ärtsoppa med fläsk – pannkakor, grädde & hjortronsylt"
"""Soup of the day on Thursdays, as everywhere in Sweden."""

DAY = "meat fish green"
BUFFET = "meat meat meat fish fish fish green green green soup soup sweet sweet"

RESTAURANTS = (
    Restaurant(
        "kopparlyktan",
        "Kopparlyktan",
        "Solna",
        (59.3487, 18.0236),
        EVERY_DAY,
        DAY,
        "Köttbullar med gräddsås, lingon & pressgurka",
    ),
    Restaurant("blabar", "Blåbär & Björk", "Solna", (59.3502, 18.0281), WEEKDAYS, DAY),
    Restaurant(
        "mikroskopet", "Café Mikroskopet", "Solna", (59.3476, 18.0309), WEEKDAYS, "soup soup"
    ),
    Restaurant("pipetten", "«Pipetten» – mat & möten", "Solna", (59.3519, 18.0264), WEEKDAYS, DAY),
    Restaurant(
        "grona-kolven",
        "Gröna Kolven – vegetariskt",
        "Solna",
        (59.3463, 18.0342),
        TUESDAY_TO_FRIDAY,
        "green green green soup",
        "Dagens råa sallad med fröknäcke (vegan)",
    ),
    Restaurant(
        "angpannan", "Ångpannan", "Solna", (59.3531, 18.0197), NEVER, DAY, has_homepage=False
    ),
    Restaurant(
        "sju-skalar",
        "Sju Skålar",
        "Solna",
        (59.3450, 18.0255),
        MONDAY_TO_THURSDAY,
        "meat green soup",
        has_menu_page=False,
    ),
    Restaurant("lovsangaren", "Lövsångaren", "Uppsala", (59.8421, 17.6347), EVERY_DAY, BUFFET),
    Restaurant("akanten", "Åkanten", "Uppsala", (59.8447, 17.6391), WEEKDAYS, "fish fish soup"),
    Restaurant("ekbacken", "Ekbackens Kök & Bar", "Uppsala", (59.8402, 17.6318), WEEKDAYS, DAY),
    Restaurant("ronnen", "Räven & Rönnen", "Uppsala", (59.8388, 17.6402), WEEKDAYS, "meat green"),
    Restaurant(
        "skafferiet7",
        "Skafferiet 7",
        "Uppsala",
        (59.8411, 17.6279),
        NEVER,
        "soup",
        has_homepage=False,
        has_menu_page=False,
    ),
    Restaurant(
        "ostra-matsalen",
        "Östra Matsalen",
        "Uppsala",
        (59.8456, 17.6433),
        WEEKDAYS,
        "meat meat fish green sweet",
    ),
    Restaurant("cellkarnan", "Cellkärnan", "Uppsala", (59.8433, 17.6361), TUESDAY_TO_FRIDAY, DAY),
    Restaurant(
        "tallasen",
        "Tallåsens Värdshus",
        "Flemingsberg",
        (59.2203, 17.9421),
        EVERY_DAY,
        "meat fish green sweet",
        "Räksmörgås «Tallåsen» – handskalade räkor & dillmajonnäs",
    ),
    Restaurant("larkan", "Lärkans Lunch", "Flemingsberg", (59.2188, 17.9386), WEEKDAYS, DAY),
    Restaurant(
        "kajutan",
        "Kajutan – fisk & skaldjur",
        "Flemingsberg",
        (59.2219, 17.9457),
        MONDAY_TO_THURSDAY,
        "fish fish fish",
    ),
    Restaurant(
        "spiralen",
        "Dubbla Spiralen",
        "Flemingsberg",
        (59.2197, 17.9404),
        WEEKDAYS,
        "meat fish green soup",
        has_homepage=False,
    ),
)

BY_IDENTIFIER = {restaurant.identifier: restaurant for restaurant in RESTAURANTS}
NUMBERS = {restaurant.identifier: number for number, restaurant in enumerate(RESTAURANTS, 1)}


def menu(restaurant: Restaurant, day: datetime.date) -> tuple[Dish, ...]:
    """What the restaurant serves that day; nothing when it is closed."""
    if day.weekday() not in restaurant.open_days:
        return ()
    dishes = []
    taken: dict[str, int] = {}
    for course in restaurant.courses.split():
        nth = taken.get(course, 0)
        taken[course] = nth + 1
        dishes.append(Dish(_dish_of(course, nth, restaurant, day), course, PRICES[course]))
    if restaurant.standing:
        dishes.append(Dish(restaurant.standing, "standing", STANDING_PRICE))
    return tuple(dishes)


def _dish_of(course: str, nth: int, restaurant: Restaurant, day: datetime.date) -> str:
    if course == "soup" and nth == 0 and day.weekday() == THURSDAY:
        return PEA_SOUP
    dishes = COURSES[course]
    # One step a day makes each day differ from the last; two steps between dishes of one course
    # keep them apart, as no list is shorter than twice what one restaurant takes of it.
    return dishes[(day.toordinal() + 3 * NUMBERS[restaurant.identifier] + 2 * nth) % len(dishes)]


def _stockholm() -> datetime.tzinfo:
    try:
        return ZoneInfo("Europe/Stockholm")
    except ZoneInfoNotFoundError:  # no time zone data on this machine: winter time is close enough
        return datetime.timezone(datetime.timedelta(hours=1))


_STOCKHOLM = _stockholm()


def today() -> datetime.date:
    """The date in Stockholm, where the restaurants turn their menus at midnight."""
    return datetime.datetime.now(_STOCKHOLM).date()
