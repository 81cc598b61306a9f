"""In which language a text is: by script and, where languages share one, by their commonest words.

No model and no dictionary, so the answer is the same everywhere and can be read off this page. It
tells a reply in the right language from one in another; it is no judge of dialects.
"""

from __future__ import annotations

import re
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
    "clear has been they them when where which would should do does order's arrives arrived how can't all a "
    "look nice day good great fine ready here's let's i'm i'll we'll you're don't doesn't worries welcome "
    "soon shipped refunded processed contact support help check update see more information sent received "
    "pleasure bet course care got get glad i've it's case looking my anything else shortly one moment could "
    "repeat wait talk sounds anytime nothing everything",
    "de": "ja nein gern gerne danke bitte leider kein keine natürlich problem hallo morgen heute bestellung geht "
    "alles klar gut ihre ihren ihnen vielen dank wird wurde kann können uns unser unsere noch nur nach dass "
    "paket kommt geduld siehe erledigt fertig schönen einen rückerstattung erstattung bestellnummer lieferung "
    "versandt veranlasst gerade schon sehr mehr bis zum zur beim durch über wenn aber oder wurden werden dir "
    "dein deine du gruß grüße freundlichen hilfe kundenservice mache machen wir's prüfen prüfe melden melde "
    "fall geschehen kümmern kümmere sofort gleich einfach fragen frage moment tut mir leid wiederholen kurz "
    "warten",
    "fr": "oui non merci bien sûr d'accord c'est désolé désolée bonjour demain commande colis beaucoup bonne vos "
    "nos cette sera été avez avons vôtre rien arrive patience aucun souci voici fait journée soirée bon très "
    "effectué remboursement livraison livré traité aussi mais ou avoir peux pouvez vous-même ici aide service "
    "client j'ai m'en tout tous toute suite avant après plaisir m'occupe vérifions vérifie cas dossier "
    "pouvons quelque chose immédiatement revenons instant moment pourriez pouvez-vous s'il plaît répéter "
    "attendez",
    "es": "sí hay claro problema voy a gracias muchas siento hola favor mañana pedido posible mucho buenos nuestra "
    "esta "
    "está será fue muy ya nada llega llegará paquete paciencia aquí hecho listo buen día tarde bueno "
    "reembolso envío enviado entregado procesó procesado ayer hoy ha han hemos puede puedo podemos ayuda "
    "servicio cliente todo también si cuando hasta luego disculpe molestias gusto revisando revisamos caso "
    "estamos enseguida placer ahora mismo algo bien momento podría repetirlo repetir espere",
    "pt": "sim claro obrigado obrigada muito desculpe olá amanhã pedido possível favor bom seus suas nossa esta "
    "será foi já nada chega encomenda paciência aqui pela feito tudo certo tenha dia boa tarde reembolso "
    "entrega enviado processado ontem hoje pode podemos ajuda serviço cliente também quando até logo incômodo "
    "isso vamos a à prazer estamos analisar caso verificar agora mesmo algo vou problema momento repetir "
    "aguarde",
    "it": "sì no certo grazie mille mi dispiace molto prego buongiorno domani ordine pacco possibile arriva favore "
    "sua suoi nostra questa sarà stato alla dei al niente pazienza ecco nulla fatto tutto posto buona buon "
    "giornata giorno sera rimborso spedizione spedito consegna effettuato ieri oggi ha abbiamo può possiamo "
    "aiuto servizio cliente se quando qui fino già ci scusiamo disagio a piacere stiamo verificando "
    "verifichiamo caso subito adesso qualcosa altro nessun problema attimo ripetere momento attenda",
    "nl": "ja nee natuurlijk dank bedankt helaas alstublieft graag hallo morgen bestelling pakket komt onze ons "
    "deze wordt heeft wel geduld zending aankomen hier geen geregeld klaar fijne dag goed terugbetaling "
    "levering verzonden verwerkt gisteren vandaag kunt kan hulp klantenservice tot al excuses ongemak bericht "
    "gedaan controleren laten weten kijken zaak meteen nog iets anders regelen ogenblik herhalen even wachten",
    "sv": "ja nej självklart tack mycket hej tyvärr imorgon morgon beställning paket ditt kommer vad hur när vilken "
    "kostar din ert vårt denna blir tålamod här inga klart bra dag återbetalning leverans skickad hanterad "
    "igår idag hjälp kundtjänst redan ursäkta direkt varsågod undersöker ärendet återkommer nu något annat "
    "ögonblick upprepa vänta",
    "da": "ja nej selvfølgelig tak mange hej desværre morgen bestilling pakke din kommer hvad hvornår hvilken "
    "koster dit denne bliver tålmodighed her ingen hjælpen klart god dag refusion levering sendt behandlet "
    "går hjælp kundeservice hvis allerede undskyld selv undersøger sagen vender tilbage nu noget andet "
    "øjeblik vent venligst",
    "no": "ja nei selvfølgelig takk mange hei dessverre morgen bestilling pakken din kommer hva når hvilken koster "
    "ditt vårt denne blir tålmodighet her ingen skal hjelpen klart god dag refusjon refusjonen levering sendt "
    "behandlet går hjelp kundeservice hvis allerede beklager undersøker saken tar kontakt nå noe annet vær "
    "øyeblikk vent vennligst",
    "fi": "kyllä kiitos kiitoksia paljon hei valitettavasti huomenna tilaus paketti totta kai anteeksi teidän "
    "pakettisi saapuu tilauksesi kärsivällisyydestä tässä valmis hyvää päivää hyvitys toimitus lähetetty "
    "käsitelty eilen tänään apua asiakaspalvelu täällä jo pahoittelut asia asian hyvä selvitämme tarkistamme "
    "nyt jotain muuta hetkinen hetki toistaa voisitteko",
    "pl": "oczywiście dziękuję dziękujemy bardzo proszę przepraszam niestety jutro zamówienie paczka dzień dotrze "
    "cierpliwość oto pani państwa będzie został została gotowe wszystko porządku dobrze miłego dnia zwrot "
    "dostawa wysłane wczoraj dzisiaj możemy pomoc obsługa klienta jeśli tutaj już opóźnienie ma sprawdzimy "
    "sprawę zaraz teraz coś jeszcze chwileczkę pan powtórzyć chwilę",
    "cs": "ano ne samozřejmě děkuji děkujeme prosím bohužel zítra objednávka zásilka dobrý den omlouváme vaše "
    "dorazí trpělivost bude byla byl zde hotovo vše pořádku hezký vrácení peněz doručení odesláno včera dnes "
    "pomoc zákaznický pokud tady už bylo zpracováno zpoždění není zač prověříme případ hned teď něco dalšího "
    "můžete zopakovat moment okamžik",
    "ro": "da desigur mulțumesc mulțumim foarte mult bună rog mâine comanda coletul scuze dumneavoastră ajunge va "
    "fost răbdarea aici gata totul bine zi rambursarea livrare trimis procesată ieri astăzi putem ajutor dacă "
    "deja imediat cazul verificăm acum altceva plăcere moment puteți",
    "hu": "igen persze köszönöm köszönjük szépen kérem sajnos holnap rendelés csomag jó napot csomagja megérkezik "
    "lesz türelmét itt kész minden rendben szép visszatérítés szállítás elküldve tegnap ma tudunk segítség "
    "ügyfélszolgálat azonnal megtörtént szívesen utánanézünk most valami más pillanat megismételni",
    "tr": "evet hayır tabii ki teşekkür teşekkürler ederim lütfen merhaba maalesef yarın sipariş siparişiniz tamam "
    "paketiniz gelecek sizin bizim sabrınız işte rica hallettim her şey yolunda iyi günler iade teslimat "
    "gönderildi dün bugün yardım müşteri hizmetleri eğer burada inceliyoruz şimdi başka dakika tekrar eder "
    "misiniz edebilir",
    "vi": "vâng tất nhiên cảm ơn rất nhiều xin chào lỗi ngày mai đơn hàng gì kiểm tra ngay bây giờ",
    "sw": "ndiyo hapana asante sana tafadhali samahani kesho habari",
    "id": "ya tentu terima kasih banyak maaf mohon besok pesanan paket halo tolong tiba kesabaran sudah telah "
    "selesai semua baik hari pengembalian dana pengiriman dikirim kemarin bantuan layanan jika sini sama-sama "
    "memeriksa sekarang ada lagi apa tunggu sebentar",
    "ru": "да нет конечно спасибо пожалуйста здравствуйте извините завтра заказ посылка хорошо ваша ваше наша "
    "придёт придет будет был была терпение ожидание вас вам нас нам готово всё все порядке хорошего дня "
    "возврат доставка отправлено вчера сегодня можем помощь здесь уже проверим проверяем сейчас ещё минуту "
    "одну подождите повторите можете",
    "uk": "ні звичайно дякую дякуємо прошу вітаю вибачте завтра замовлення посилка добре ваша ваше наша прийде буде "
    "був була терпіння очікування вас вам нас нам готово все гаразд гарного дня повернення доставка "
    "відправлено вчора сьогодні можемо допомога тут вже перевіримо нема перевіряємо зараз ще хвилину одну "
    "будь ласка зачекайте",
    "bg": "разбира благодаря благодарим моля здравейте съжаляваме утре поръчка пратка добре вашата вашият пристигне "
    "беше търпението момент един изчакайте",
    "ar": "تم شكرا لك شيء يرام مرحبا نعم غدا اليوم طلبك طردك سوف",
    "fa": "متشکرم ممنون لطفا بله خیر سلام فردا امروز سفارش بسته",
    "ur": "شکریہ براہ کرم جی ہاں سلام کل آج آرڈر گیا",
}
"""What short replies are made of."""
_OWN_LETTERS = {
    "en": "é", "de": "äöüß", "fr": "àâæçéèêëîïôœùûüÿ", "es": "áéíñóúü", "pt": "àáâãçéêíóôõú", "it": "àèéìíîòóùú",
    "nl": "áéèëíïóöúü", "sv": "åäöé", "da": "æøåé", "no": "æøåéòô", "fi": "äöåšž", "pl": "ąćęłńóśźż",
    "cs": "áčďéěíňóřšťúůýž", "ro": "ăâîșțşţ", "hu": "áéíóöőúüű", "tr": "çğıöşüâîû", "id": "é", "sw": "",
}  # fmt: skip
"""The letters beside a to z with which languages of the Latin script are written; of Vietnamese all are taken."""
_NOT_OURS = {
    "ar": "پچژگکیٹڈڑںےہھ", "fa": "يكةىٹڈڑںےہھ", "ur": "يكةى", "ru": "іїєґ", "uk": "ыэёъ", "bg": "ыэёіїєґ",
}  # fmt: skip
"""The letters of other scripts that only their neighbours have."""
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
_SAID_IN: dict[str, list[str]] = {}
"""Common words with the languages that have them."""
for _code, _common in _STOP.items():
    for _word in dict.fromkeys(f"{_common} {_REPLIES.get(_code, '')}".split()):
        _SAID_IN.setdefault(_word, []).append(_code)
_SIMPLIFIED = frozenset(
    "这说为们时对发没过还后经动样应业机产进开关问题谢请吗让给你您吃么哪订单货款气东车长门风飞马鸟鱼龙电话语读书听觉欢乐爱亲务质价钱银间现网络线级红绿热难节约纪总结员团图圆场处备复头实审宽将层帮广庆库张归录"
)
"""Common ideographs that Japanese does not write."""
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
    if letters == 0:
        return doubt is None
    own = letters if latin_only and script == "Latin" else 0 if latin_only else _own_letters(text, script)
    own *= _SYLLABLE if script in ("Han", "Japanese", "Hangul") else 1
    more = 0 if latin_only else (_SYLLABLE - 1) * _count(_letters("syllables"), text)
    if own < _MOSTLY * (letters + more):
        return False
    if script == "Japanese":
        kana = _count(_letters("Hiragana"), text) + _count(_letters("Katakana"), text)
        return kana > 0 or (doubt is None and letters <= 4 and _SIMPLIFIED.isdisjoint(text))
    return _wins(text.casefold(), code, script, doubt)


def _own_letters(text: str, script: str) -> int:
    matched = (match[0] for match in _letters(script).finditer(text))
    return sum(char.isalpha() for char in matched)


def _wins(text: str, code: str, script: str, doubt: bool | None) -> bool:
    if script == "Han":
        return _count(_letters("Hiragana"), text) == 0
    if list(_SCRIPT_OF.values()).count(script) == 1:
        return True
    said = words(text)
    joined = [word for word in said if "'" in word or "-" in word] if "'" in text or "-" in text else []
    counts = Counter([*said, *(part for word in joined for part in re.split("[-']", word))])
    votes: Counter[str] = Counter()
    for word in counts.keys() & _SAID_IN.keys():
        for other in _SAID_IN[word]:
            votes[other] += counts[word] if _SCRIPT_OF[other] == script else 0
    if not any(votes.values()):
        return doubt if doubt is not None else len(said) <= (2 if code == "en" else 4) and not _foreign(text, code)
    best = [other for other, count in votes.items() if count == max(votes.values())]
    if len(best) > 1:
        best = [other for other in best if not _foreign(text, other)] or best
    return code in best


def _foreign(text: str, code: str) -> set[str]:
    """The letters that the language is not written with."""
    if _SCRIPT_OF[code] == "Latin":
        others = {char for char in text if char.isalpha() and not char.isascii()} - set(_OWN_LETTERS.get(code, text))
        return others if code == "es" else others | {char for char in text if char in "\u00bf\u00a1"}
    return set(text) & set(_NOT_OURS.get(code, ""))
