"""Names, cities and weights from which demo leads are made.

Invariant: no value holds a tab, a line end, a backslash or a double quote, so that rows need no escaping on
their way into COPY and JSON; a test holds every word to that.

A name in another script is written ``display=romanised``; the romanised form makes the address.
"""

# ruff: noqa: RUF001 - the letters of other languages are meant

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Country:
    """One country: its share of all leads, languages by share, and cities from large to small."""

    code: str
    weight: float
    languages: Mapping[str, float]
    cities: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Names:
    """First and last names of one language as (display, ASCII lower case for addresses)."""

    first: tuple[tuple[str, str], ...]
    last: tuple[tuple[str, str], ...]


_UNFOLDED = str.maketrans({"ß": "ss", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "æ": "ae", "ı": "i", "đ": "d"})


def _ascii(name: str) -> str:
    folded = unicodedata.normalize("NFKD", name.translate(_UNFOLDED)).encode("ascii", "ignore").decode()
    return "".join(character for character in folded.lower() if character.isalnum())


def _words(text: str) -> tuple[tuple[str, str], ...]:
    pairs = [word.strip().partition("=") for word in text.split(",")]
    return tuple((display, romanised or _ascii(display)) for display, _, romanised in pairs)


def _country(code: str, weight: float, languages: Mapping[str, float], cities: str) -> Country:
    return Country(code, weight, languages, tuple(city.strip() for city in cities.split(",")))


COUNTRIES: tuple[Country, ...] = (
    _country(
        "US",
        18,
        {"en": 0.86, "es": 0.14},
        "New York, Los Angeles, Chicago, Houston, Phoenix, San Antonio, Coeur d'Alene",
    ),
    _country(
        "GB", 10, {"en": 1}, "London, Birmingham, Glasgow, Leeds, Bristol, Edinburgh, Newcastle upon Tyne, King's Lynn"
    ),
    _country("IE", 2, {"en": 1}, "Dublin, Cork, Galway, Limerick, Dún Laoghaire"),
    _country(
        "DE", 14, {"de": 0.95, "tr": 0.05}, "Berlin, Hamburg, München, Köln, Frankfurt am Main, Düsseldorf, Gießen"
    ),
    _country("AT", 3, {"de": 1}, "Wien, Graz, Linz, Salzburg, Innsbruck, St. Pölten"),
    _country("CH", 3, {"de": 0.65, "fr": 0.25, "it": 0.1}, "Zürich, Genève, Basel, Lausanne, Bern, Lugano"),
    _country("FR", 9, {"fr": 1}, "Paris, Marseille, Lyon, Toulouse, Nice, Nîmes, L'Haÿ-les-Roses"),
    _country("ES", 7, {"es": 1}, "Madrid, Barcelona, València, Sevilla, Zaragoza, Málaga, A Coruña"),
    _country("IT", 6, {"it": 1}, "Roma, Milano, Napoli, Torino, Palermo, L'Aquila, Forlì"),
    _country("NL", 4, {"nl": 1}, "Amsterdam, Rotterdam, Den Haag, Utrecht, Eindhoven, 's-Hertogenbosch"),
    _country("PL", 5, {"pl": 1}, "Warszawa, Kraków, Łódź, Wrocław, Poznań, Gdańsk"),
    _country("SE", 2, {"sv": 1}, "Stockholm, Göteborg, Malmö, Uppsala, Västerås"),
    _country("BR", 6, {"pt": 1}, "São Paulo, Rio de Janeiro, Brasília, Salvador, Fortaleza, Goiânia"),
    _country("MX", 3, {"es": 1}, "Ciudad de México, Guadalajara, Monterrey, Puebla, León"),
    _country("TR", 2, {"tr": 1}, "İstanbul, Ankara, İzmir, Bursa, Şanlıurfa"),
    _country("GR", 1.5, {"el": 1}, "Αθήνα, Θεσσαλονίκη, Πάτρα, Ηράκλειο"),
    _country("IL", 1.5, {"he": 0.8, "en": 0.2}, "תל אביב, ירושלים, חיפה, באר שבע"),
    _country("AE", 1.5, {"ar": 0.6, "en": 0.4}, "دبي, أبو ظبي, الشارقة, العين"),
    _country("JP", 2.5, {"ja": 1}, "東京, 横浜, 大阪, 名古屋, 札幌, 京都"),
)

NAMES: Mapping[str, Names] = {
    "en": Names(
        _words(
            "James, Olivia, Noah, Emma, Liam, Ava, Sophia, Jack, Grace, Harry, Chloe, Mary-Jane, D'Angelo, Siân, Zoë, "
            "Niamh, Seán, Aoife, Ruby, Theo"
        ),
        _words(
            "Smith, Jones, Taylor, Brown, O'Neil, O'Brien, Williams, Johnson, McDonald, Fitzgerald, Clarke, Walker, "
            "St. John, Wright-Hughes, D'Arcy, Young, King, Ó Súilleabháin, Murphy, Evans"
        ),
    ),
    "de": Names(
        _words(
            "Anna, Lukas, Jürgen, Käthe, Jörg, Sophie, Maximilian, Änne, Björn, Lena, Paul, Günther, Mia, Leon, Uwe"
        ),
        _words(
            "Müller, Schmidt, Schneider, Fischer, Weiß, Groß, Schäfer, Köhler, von der Heide, Vogel, Bäcker, Krüger, "
            "Schulze-Delitzsch, Huber, Gruber"
        ),
    ),
    "fr": Names(
        _words("Léa, Hugo, Chloé, Noël, François, Zoé, Maël, Jean-Luc, Anaïs, Théo, Amélie, Gaël, Inès, Loïc, Élodie"),
        _words("Martin, Bernard, D'Hondt, Lefèvre, L'Hermite, Moreau, Laurent, Garçon, Fournier, Noël, Dupré, Le Gall"),
    ),
    "es": Names(
        _words("María, José, Lucía, Íñigo, Sofía, Martín, Begoña, Ángel, Nuria, Hugo, Inés, Raúl, Ximena, Óscar"),
        _words("García, Fernández, Muñoz, Ibáñez, Núñez, López, Martínez, Peña, Ortega y Gasset, Castaño, Gómez, Ruiz"),
    ),
    "it": Names(
        _words("Giulia, Niccolò, Sofia, Francesco, Aurora, Alessandro, Noè, Chiara, Matteo, Desirée, Luca, Giosuè"),
        _words("Rossi, D'Amico, Dell'Acqua, Russo, Esposito, Bianchi, De Luca, Dall'Olio, Conti, Nicolò, Greco"),
    ),
    "nl": Names(
        _words("Daan, Sanne, Bram, Femke, Jeroen, Loïs, Maud, Thijs, Anouk, Sjoerd, Zoë"),
        _words("de Jong, van den Berg, in 't Veld, Jansen, Bakker, van 't Hoff, Visser, Smit, ten Brink, Mulder"),
    ),
    "pl": Names(
        _words("Zofia, Łukasz, Małgorzata, Paweł, Agnieszka, Michał, Świętosława, Jakub, Żaneta, Grzegorz"),
        _words("Nowak, Kowalski, Wiśniewska, Wójcik, Dąbrowski, Zieliński, Szymańska, Woźniak, Łapiński, Źrebiec"),
    ),
    "sv": Names(
        _words("Åsa, Erik, Maja, Björn, Linnéa, Göran, Elsa, Håkan, Saga, Nils"),
        _words("Andersson, Åkesson, Lindström, Öberg, Nyström, Sjöberg, Lund, Ek, Bergqvist"),
    ),
    "pt": Names(
        _words("João, Beatriz, Antônio, Conceição, Luís, Júlia, Gonçalo, Inês, Thiago, Caetano, Mônica"),
        _words("Silva, Gonçalves, Araújo, Conceição, Magalhães, Souza, d'Ávila, Pereira, Simões, Antunes"),
    ),
    "tr": Names(
        _words("Ayşe, Mehmet, Çağla, Ömer, Şule, Işıl, Oğuz, Gül, İbrahim, Deniz"),
        _words("Yılmaz, Kaya, Demir, Şahin, Çelik, Öztürk, Güneş, Aydın, Ağaoğlu"),
    ),
    "el": Names(
        _words("Γιώργος=giorgos, Μαρία=maria, Ελένη=eleni, Νίκος=nikos, Άννα=anna, Κώστας=kostas, Σοφία=sofia"),
        _words("Παπαδόπουλος=papadopoulos, Βλάχος=vlachos, Αγγελίδης=angelidis, Νικολάου=nikolaou, Μακρή=makri"),
    ),
    "he": Names(
        _words("נועה=noa, דוד=david, יעל=yael, איתי=itai, תמר=tamar, אורי=uri, מיכל=michal"),
        _words("כהן=cohen, לוי=levi, מזרחי=mizrahi, פרץ=peretz, בן־דוד=bendavid, אברהם=avraham"),
    ),
    "ar": Names(
        _words("محمد=mohammed, فاطمة=fatima, أحمد=ahmed, مريم=maryam, عمر=omar, ليلى=layla, يوسف=youssef"),
        _words("الهاشمي=alhashimi, النعيمي=alnuaimi, حداد=haddad, المنصوري=almansoori, خليل=khalil, ناصر=nasser"),
    ),
    "ja": Names(
        _words("陽菜=hina, 蓮=ren, さくら=sakura, 大翔=hiroto, 結衣=yui, 健太=kenta, 美咲=misaki"),
        _words("佐藤=sato, 鈴木=suzuki, 高橋=takahashi, 田中=tanaka, 渡辺=watanabe, 山本=yamamoto, 小林=kobayashi"),
    ),
}

DOMAINS = (
    *("example.com", "example.org", "example.net", "mail.example.com", "post.example.org", "webmail.example"),
    *("inbox.example", "office.test", "correo.test", "posta.test", "team.example.net"),
)
BLOCKED_DOMAIN = "blocked.example"
"""A domain to which the demo's provider account may not send: the provider refuses these recipients one by one
(start the provider simulator with ``--blocked-domain blocked.example``)."""

PLANS: Mapping[str, float] = {"free": 0.62, "starter": 0.2, "pro": 0.13, "enterprise": 0.05}
SIGNUP_SOURCES: Mapping[str, float] = {
    "organic": 0.35,
    "search_ad": 0.2,
    "social": 0.15,
    "referral": 0.12,
    "webinar": 0.08,
    "trade_fair": 0.05,
    "import": 0.05,
}
TAGS = ("newsletter", "trial", "mobile", "api", "partner", "event-2026", "loyal", "beta-tester", "quarterly", "winback")
