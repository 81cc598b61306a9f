"""In which language a text is: by script and, where languages share one, by their commonest words.

No model and no dictionary, so the answer is the same everywhere and can be read off this page. It
tells a reply in the right language from one in another; it is no judge of dialects.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import Any

from .text import compile_regex, words

_STOP = {
    "en": "the and of to in is you that it for was on are with as have this be at not your we can will our or "
    "from if an by i",
    "de": "der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als auch es an sie wir "
    "ihr ich bei sind haben",
    "fr": "de la le et les des en un du une que est pour qui dans vous par sur avec plus pas nous au ce il "
    "votre je ne sont",
    "es": "de la que el en y los se del las un por con no una su para es al lo como más pero sus le usted "
    "nuestro este",
    "pt": "de que e do da em um para com não uma os no se na por mais as dos como mas ao você sua seu são é "
    "nosso está",
    "it": "di che è e la il un in per una sono non con le si da del come più ma lo gli della nel suo anche "
    "questo noi",
    "nl": "de het een en van is dat op te in zijn voor met niet aan er maar om ook als dan we wij u uw bij naar "
    "kunnen hebben",
    "sv": "och att det i en jag hon som han på den med var sig för så till är men ett om vi inte kan du vår ni "
    "har av",
    "da": "og i at det en den til er som på de med han af for ikke der var mig sig men et har om vi kan du "
    "vores jeg",
    "no": "og i det på som er en til å han av for med at var de ikke den har jeg om et men så vi kan du vår "
    "dette",
    "fi": "ja on ei se että oli mutta hän kun niin myös ovat joka ole tai kuin jos sen minä voi olen me sinun "
    "meidän tämä",
    "pl": "w i z na się do nie jest to że o jak po ale od za co przez czy dla są tak ten tym oraz może pana "
    "nasz",
    "cs": "a v se na je že to s z do o i jako k ale za by po pro si tak jsem jsou které jeho nebo také vám nás",
    "ro": "de și în a la cu că pe un nu o este din mai care sau ce pentru sunt se au prin fi dar după vă",
    "hu": "a az és hogy nem is egy ez meg csak volt de már van még mint ha vagy el azt kell lehet ki mi ön",
    "tr": "ve bir bu da de için ile çok daha olarak gibi ne var ama en kadar sonra olan mi ya biz siz değil",
    "vi": "và là của có không được trong một cho với người các những này khi đã để tôi bạn chúng về ở như",
    "sw": "na ya wa kwa ni katika za la kuwa hii huu cha watu sana kama lakini pia hiyo yake wake yangu hapa au",
    "id": "yang dan di dari untuk dengan ini tidak pada dalam itu adalah kami anda akan atau bisa saya oleh ke "
    "juga",
    "hi": "के है में की और से का को यह पर नहीं हैं एक लिए भी कि था ने तो आप हम मैं हो कर करें रहा अपने या",
    "mr": "आहे आणि हे या तो ते मी की आम्ही तुम्ही नाही एक होते आहेत करा साठी मध्ये पण त्या काही असे आपण केले "
    "होता ही आपल्या",
    "ne": "छ र को मा यो हो छन् गर्न पनि लागि तपाईं हामी भएको यस गरेको एक छैन म थियो हुन्छ भने तर सँग गर्नुहोस्",
    "ru": "и в не на что с я как это по но мы вы он она они из за для от так же ваш наш если или к у",
    "uk": "і в не на що з я як це по але ми ви він вона вони із за для від так ж ваш наш якщо або та є у",
    "bg": "и в не на че с аз как това по но ние вие той тя те от за да са е се ще ви ни ако или си",
    "ar": "في من على أن إلى هذا التي عن مع لا ما هذه كان أو هو الذي لم كل بعد ذلك قد هي يمكن نحن",
    "fa": "و در به از که این را با است برای آن یک خود تا بر هم شما ما می شد نیست یا اگر های هر",
    "ur": "کے ہے میں کی اور سے کا کو یہ پر نہیں ہیں ایک لیے بھی کہ تھا نے تو آپ ہم ہو کر جو یا اس",
}  # fmt: skip
_REPLIES = {
    "en": "yes no sure please thanks thank sorry hello done order refund parcel problem call today tomorrow monday "
    "clear",
    "de": "ja nein gern gerne danke bitte leider kein keine natürlich problem hallo morgen heute bestellung das geht "
    "alles klar gut",
    "fr": "oui non merci bien sûr d'accord c'est désolé désolée bonjour demain commande colis beaucoup bonne",
    "es": "sí no claro gracias muchas lo siento hola favor mañana pedido posible mucho buenos",
    "pt": "sim não claro obrigado obrigada muito desculpe olá amanhã pedido possível favor bom",
    "it": "sì no certo grazie mille mi dispiace molto prego buongiorno domani ordine pacco possibile arriva favore",
    "nl": "ja nee natuurlijk dank bedankt helaas alstublieft graag hallo morgen bestelling pakket komt",
    "sv": "ja nej självklart tack mycket hej tyvärr imorgon morgon beställning paket ditt kommer "
    "vad hur när vilken kostar",
    "da": "ja nej selvfølgelig tak mange hej desværre morgen bestilling pakke din kommer hvad hvornår hvilken koster",
    "no": "ja nei selvfølgelig takk mange hei dessverre morgen bestilling pakken din kommer hva når hvilken koster",
    "fi": "kyllä kiitos kiitoksia paljon hei valitettavasti huomenna tilaus paketti totta kai anteeksi",
    "pl": "tak nie oczywiście dziękuję dziękujemy bardzo proszę przepraszam niestety jutro zamówienie paczka dzień",
    "cs": "ano ne samozřejmě děkuji děkujeme prosím bohužel zítra objednávka zásilka dobrý den omlouváme",
    "ro": "da nu desigur mulțumesc mulțumim foarte mult bună rog mâine comanda coletul scuze",
    "hu": "igen nem persze köszönöm köszönjük szépen kérem sajnos holnap rendelés csomag jó napot",
    "tr": "evet hayır tabii ki teşekkür teşekkürler ederim lütfen merhaba maalesef yarın sipariş siparişiniz tamam",
    "vi": "vâng tất nhiên cảm ơn rất nhiều xin chào lỗi ngày mai đơn hàng không",
    "sw": "ndiyo hapana asante sana tafadhali samahani kesho habari",
    "id": "ya tidak tentu terima kasih banyak maaf mohon besok pesanan paket halo tolong",
    "ru": "да нет конечно спасибо пожалуйста здравствуйте извините завтра заказ посылка хорошо",
    "uk": "так ні звичайно дякую дякуємо прошу вітаю вибачте завтра замовлення посилка добре",
    "bg": "да не разбира благодаря благодарим моля здравейте съжаляваме утре поръчка пратка добре",
}
"""What short replies are made of."""
_OWN_LETTERS = {
    "en": "é", "de": "äöüß", "fr": "àâæçéèêëîïôœùûüÿ", "es": "áéíñóúü", "pt": "àáâãçéêíóôõú", "it": "àèéìíîòóùú",
    "nl": "áéèëíïóöúü", "sv": "åäöé", "da": "æøåé", "no": "æøåéòô", "fi": "äöåšž", "pl": "ąćęłńóśźż",
    "cs": "áčďéěíňóřšťúůýž", "ro": "ăâîșțşţ", "hu": "áéíóöőúüű", "tr": "çğıöşüâîû", "id": "é", "sw": "",
}  # fmt: skip
"""The letters beside a to z with which languages of the Latin script are written; of Vietnamese all are taken."""
_SCRIPT_OF = {
    **dict.fromkeys(("cs", "da", "de", "en", "es", "fi", "fr", "hu", "id", "it", "nl", "no", "pl", "pt"), "Latin"),
    **dict.fromkeys(("ro", "sv", "sw", "tr", "vi"), "Latin"),
    **dict.fromkeys(("hi", "mr", "ne"), "Devanagari"),
    **dict.fromkeys(("bg", "ru", "uk"), "Cyrillic"),
    **dict.fromkeys(("ar", "fa", "ur"), "Arabic"),
    "bn": "Bengali", "el": "Greek", "gu": "Gujarati", "he": "Hebrew", "kn": "Kannada",
    "ko": "Hangul", "ml": "Malayalam", "pa": "Gurmukhi", "si": "Sinhala", "ta": "Tamil", "te": "Telugu", "th": "Thai",
    "zh": "Han", "ja": "Japanese",
}  # fmt: skip
LANGUAGES = frozenset(_SCRIPT_OF)
_STOP_SETS = {code: frozenset(f"{text} {_REPLIES.get(code, '')}".split()) for code, text in _STOP.items()}
_SYLLABLES = r"[\p{Hiragana}\p{Katakana}\p{Han}\p{Hangul}]"
_SYLLABLE = 3
"""Letters that a character which stands for a syllable or a word counts as."""
_JAPANESE = r"[\p{Hiragana}\p{Katakana}\p{Han}]"
_MOSTLY = 0.6


@lru_cache(maxsize=64)
def _letters(script: str) -> Any:
    return compile_regex(
        {"Japanese": _JAPANESE, "any": r"\p{L}", "syllables": _SYLLABLES}.get(script, rf"\p{{{script}}}")
    )


def _count(pattern: Any, text: str) -> int:
    return sum(1 for _ in pattern.finditer(text))


def is_in(text: str, code: str, *, doubt: bool | None = None) -> bool:
    """Whether most letters are of the language's script and no rival of that script has more common words.

    ``doubt``: what to say of a text without a common word of any language; left out, such a text is in any language of
    its script that has its letters as long as it has no more than four words ("OK.").
    """
    script = _SCRIPT_OF[code]
    latin_only = text.isascii()
    letters = sum(map(str.isalpha, text)) if latin_only else _count(_letters("any"), text)
    own = letters if latin_only and script == "Latin" else 0 if latin_only else _own_letters(text, script)
    more = 0 if latin_only else (_SYLLABLE - 1) * _count(_letters("syllables"), text)
    own += more if script in ("Han", "Japanese", "Hangul") else 0
    if letters == 0 or own < _MOSTLY * (letters + more):
        return False
    if script == "Japanese":
        return _count(_letters("Hiragana"), text) + _count(_letters("Katakana"), text) > 0
    return _wins(text.casefold(), code, script, doubt)


def _own_letters(text: str, script: str) -> int:
    matched = (match[0] for match in _letters(script).finditer(text))
    return sum(char.isalpha() for char in matched)


def _wins(text: str, code: str, script: str, doubt: bool | None) -> bool:
    if script == "Han":
        return _count(_letters("Hiragana"), text) == 0
    rivals = [other for other, its in _SCRIPT_OF.items() if its == script]
    if len(rivals) == 1:
        return True
    said = words(text)
    counts = Counter(said)
    votes = {other: sum(counts[word] for word in counts.keys() & _STOP_SETS[other]) for other in rivals}
    if not any(votes.values()):
        foreign = {char for char in text if char.isalpha() and not char.isascii()} - set(_OWN_LETTERS.get(code, text))
        return doubt if doubt is not None else len(said) <= 4 and not foreign
    return votes[code] == max(votes.values())
