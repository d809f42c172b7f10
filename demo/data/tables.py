"""Simple facts, as tables: what the model knows about the world. `a:b` reads "the answer for a is b"."""


def _pairs(text: str) -> dict[str, str]:
    return dict(item.strip().split(":", 1) for item in text.replace("\n", " ").split(";") if item.strip())


CAPITALS = _pairs("""
Afghanistan:Kabul; Albania:Tirana; Algeria:Algiers; Angola:Luanda; Argentina:Buenos Aires; Armenia:Yerevan;
Australia:Canberra; Austria:Vienna; Azerbaijan:Baku; Bangladesh:Dhaka; Belarus:Minsk; Belgium:Brussels; Bolivia:Sucre;
Brazil:Brasilia; Bulgaria:Sofia; Cambodia:Phnom Penh; Cameroon:Yaounde; Canada:Ottawa; Chile:Santiago; China:Beijing;
Colombia:Bogota; Croatia:Zagreb; Cuba:Havana; Cyprus:Nicosia; Czechia:Prague; Denmark:Copenhagen; Ecuador:Quito;
Egypt:Cairo; Estonia:Tallinn; Ethiopia:Addis Ababa; Fiji:Suva; Finland:Helsinki; France:Paris; Georgia:Tbilisi;
Germany:Berlin; Ghana:Accra; Greece:Athens; Hungary:Budapest; Iceland:Reykjavik; India:New Delhi; Indonesia:Jakarta;
Iran:Tehran; Iraq:Baghdad; Ireland:Dublin; Italy:Rome; Jamaica:Kingston; Japan:Tokyo; Jordan:Amman; Kenya:Nairobi;
Latvia:Riga; Lebanon:Beirut; Libya:Tripoli; Lithuania:Vilnius; Luxembourg:Luxembourg; Malaysia:Kuala Lumpur;
Mali:Bamako; Malta:Valletta; Mexico:Mexico City; Moldova:Chisinau; Mongolia:Ulaanbaatar; Morocco:Rabat; Nepal:Kathmandu;
New Zealand:Wellington; Nigeria:Abuja; North Macedonia:Skopje; Norway:Oslo; Oman:Muscat; Pakistan:Islamabad;
Panama:Panama City; Paraguay:Asuncion; Peru:Lima; Poland:Warsaw; Portugal:Lisbon; Qatar:Doha; Romania:Bucharest;
Russia:Moscow; Rwanda:Kigali; Saudi Arabia:Riyadh; Senegal:Dakar; Serbia:Belgrade; Singapore:Singapore;
Slovakia:Bratislava; Slovenia:Ljubljana; Somalia:Mogadishu; South Korea:Seoul; Spain:Madrid; Sudan:Khartoum;
Sweden:Stockholm; Switzerland:Bern; Syria:Damascus; Thailand:Bangkok; Tunisia:Tunis; Turkey:Ankara; Uganda:Kampala;
Ukraine:Kyiv; Uruguay:Montevideo; Venezuela:Caracas; Vietnam:Hanoi; Yemen:Sanaa; Zambia:Lusaka; Zimbabwe:Harare
""")

COLOURS_OF = _pairs("""
grass:green; the sky:blue; snow:white; coal:black; a banana:yellow; a lemon:yellow; blood:red; a tomato:red; milk:white;
chocolate:brown; a carrot:orange; a pumpkin:orange; a plum:purple; a flamingo:pink; an elephant:grey; the sun:yellow;
a strawberry:red; a cherry:red; the sea:blue; an emerald:green; a ruby:red; a sapphire:blue; gold:golden;
a raven:black; a swan:white; a frog:green; spinach:green; a kiwi:green; cinnamon:brown; a cucumber:green; salt:white;
a sunflower:yellow; lavender:purple; a mouse:grey; a fire engine:red; paper:white; honey:golden; a polar bear:white
""")

ANIMAL_SOUNDS = _pairs("""
cow:moo; dog:woof; cat:meow; sheep:baa; duck:quack; pig:oink; horse:neigh; lion:roar; frog:croak; bee:buzz; snake:hiss;
owl:hoot; crow:caw; mouse:squeak; wolf:howl; donkey:bray; goose:honk; dove:coo; cricket:chirp; turkey:gobble
""")

ANIMAL_YOUNG = _pairs("""
cow:calf; dog:puppy; cat:kitten; sheep:lamb; duck:duckling; pig:piglet; horse:foal; lion:cub; frog:tadpole; goat:kid;
swan:cygnet; owl:owlet; goose:gosling; bear:cub; deer:fawn; kangaroo:joey; hen:chick; fox:cub; wolf:cub; eagle:eaglet;
butterfly:caterpillar; elephant:calf; whale:calf; seal:pup; hare:leveret
""")

ANIMAL_LEGS = _pairs("""
cow:4; dog:4; cat:4; sheep:4; duck:2; pig:4; horse:4; spider:8; ant:6; bee:6; snake:0; fish:0; owl:2; crab:10; hen:2;
butterfly:6; octopus:0; lion:4; swan:2; snail:0; beetle:6; wasp:6; frog:4; penguin:2; lizard:4; worm:0; scorpion:8
""")

ANIMAL_HOMES = _pairs("""
bee:hive; bird:nest; dog:kennel; horse:stable; spider:web; fox:den; rabbit:burrow; pig:sty; lion:den; hen:coop;
cow:barn; ant:anthill; beaver:lodge; eagle:nest; fish:water; squirrel:tree; badger:sett; snail:shell
""")

UNITS = _pairs("""
seconds in a minute:60; minutes in an hour:60; hours in a day:24; days in a week:7; months in a year:12;
weeks in a year:52; days in a year:365; years in a decade:10; years in a century:100; years in a millennium:1000;
millimetres in a centimetre:10; centimetres in a metre:100; metres in a kilometre:1000; grams in a kilogram:1000;
kilograms in a tonne:1000; millilitres in a litre:1000; inches in a foot:12; feet in a yard:3; ounces in a pound:16;
bits in a byte:8; degrees in a circle:360; degrees in a right angle:90; sides on a triangle:3; sides on a square:4;
sides on a hexagon:6; sides on an octagon:8; items in a dozen:12; letters in the alphabet:26; cents in a dollar:100;
cards in a deck:52; strings on a violin:4; keys on a piano:88; planets in the solar system:8; continents on Earth:7;
fingers on a hand:5; players in a football team:11; squares on a chess board:64; colours in a rainbow:7
""")

OPPOSITES = _pairs("""
hot:cold; big:small; fast:slow; up:down; left:right; day:night; open:closed; full:empty; happy:sad; old:young;
rich:poor; strong:weak; light:dark; wet:dry; early:late; hard:soft; high:low; long:short; loud:quiet; near:far;
new:old; thick:thin; true:false; wide:narrow; win:lose; buy:sell; push:pull; start:finish; give:take; love:hate;
inside:outside; above:below; first:last; clean:dirty; safe:dangerous; sweet:sour; rough:smooth; deep:shallow;
brave:cowardly; cheap:expensive; easy:difficult; asleep:awake; alive:dead; north:south; east:west; summer:winter;
black:white; yes:no; before:after; front:back; laugh:cry; arrive:leave; remember:forget; always:never; all:none
""")

LANGUAGES = _pairs("""
France:French; Germany:German; Spain:Spanish; Italy:Italian; Portugal:Portuguese; Brazil:Portuguese; Japan:Japanese;
China:Chinese; Russia:Russian; Poland:Polish; Greece:Greek; Turkey:Turkish; Sweden:Swedish; Norway:Norwegian;
Denmark:Danish; Finland:Finnish; Hungary:Hungarian; Mexico:Spanish; Argentina:Spanish; Austria:German; Egypt:Arabic;
Iran:Persian; Ukraine:Ukrainian; Vietnam:Vietnamese; Thailand:Thai; South Korea:Korean; Iceland:Icelandic;
Romania:Romanian; Bulgaria:Bulgarian; Czechia:Czech; Australia:English; New Zealand:English; Israel:Hebrew
""")

CURRENCIES = _pairs("""
France:the euro; Germany:the euro; Spain:the euro; Italy:the euro; Japan:the yen; China:the yuan; Russia:the rouble;
Poland:the zloty; Turkey:the lira; Sweden:the krona; Norway:the krone; Denmark:the krone; Switzerland:the franc;
India:the rupee; Mexico:the peso; Brazil:the real; Thailand:the baht; South Korea:the won; Vietnam:the dong;
Canada:the dollar; Australia:the dollar; South Africa:the rand; Hungary:the forint; Czechia:the koruna; Ukraine:the hryvnia
""")

SYMBOLS = _pairs("""
hydrogen:H; helium:He; carbon:C; nitrogen:N; oxygen:O; sodium:Na; iron:Fe; copper:Cu; silver:Ag; gold:Au; lead:Pb; tin:Sn;
zinc:Zn; mercury:Hg; calcium:Ca; potassium:K; sulphur:S; neon:Ne; silicon:Si; chlorine:Cl; iodine:I; nickel:Ni; uranium:U
""")

PLURALS = _pairs("""
mouse:mice; goose:geese; child:children; foot:feet; tooth:teeth; man:men; woman:women; ox:oxen; leaf:leaves; knife:knives;
wolf:wolves; sheep:sheep; fish:fish; deer:deer; city:cities; story:stories; box:boxes; dish:dishes; church:churches;
potato:potatoes; tomato:tomatoes; hero:heroes; cat:cats; book:books; lady:ladies; life:lives; bus:buses; half:halves
""")

MONTH_DAYS = dict(
    zip(
        [
            "January",
            "February",
            "March",
            "April",
            "May",
            "June",
            "July",
            "August",
            "September",
            "October",
            "November",
            "December",
        ],
        ["31", "28", "31", "30", "31", "30", "31", "31", "30", "31", "30", "31"],
        strict=True,
    )
)

TABLES: dict[str, tuple[dict[str, str], tuple[str, ...], str, str]] = {
    # name: (table, question forms, full answer, one-word answer form)
    "capital": (
        CAPITALS,
        ("What is the capital of {}?", "Which city is the capital of {}?", "Tell me the capital of {}.",
         "Name the capital of {}.", "What's the capital of {}?", "Do you know the capital of {}?", "Capital of {}?",
         "What is the capital city of {}?", "Can you tell me the capital of {}?", "Please give me the capital of {}."),
        "The capital of {} is {}.", "{}",
    ),
    "colour": (
        COLOURS_OF,
        ("What colour is {}?", "Which colour is {}?", "What is the colour of {}?", "Tell me the colour of {}.",
         "What color is {}?", "Which colour does {} have?", "Do you know what colour {} is?", "Name the colour of {}."),
        "{} is {}.", "{}",
    ),
    "sound": (
        ANIMAL_SOUNDS,
        ("What sound does a {} make?", "What does a {} say?", "Which sound does a {} make?", "How does a {} sound?",
         "Tell me what a {} says.", "What noise does a {} make?", "Do you know what a {} says?"),
        "A {} says {}.", "{}",
    ),
    "young": (
        ANIMAL_YOUNG,
        ("What is a young {} called?", "What is a baby {} called?", "What do you call a young {}?",
         "What do you call a baby {}?", "Tell me the word for a young {}.", "What's the name for a baby {}?"),
        "A young {} is called a {}.", "{}",
    ),
    "legs": (
        ANIMAL_LEGS,
        ("How many legs does a {} have?", "What number of legs does a {} have?", "How many legs has a {}?",
         "Tell me how many legs a {} has.", "Do you know how many legs a {} has?", "Legs of a {}?"),
        "A {} has {} legs.", "{}",
    ),
    "home": (
        ANIMAL_HOMES,
        ("Where does a {} live?", "What is the home of a {} called?", "What is the home of a {}?", "Tell me where a {} lives.",
         "Which home does a {} have?", "Where is a {} at home?"),
        "The home of a {} is a {}.", "{}",
    ),
    "unit": (
        UNITS,
        ("How many {}?", "How many {} are there?", "Tell me how many {} there are.", "Do you know how many {} there are?",
         "What is the number of {}?", "Please tell me the number of {}."),
        "The number of {} is {}.", "{}",
    ),
    "opposite": (
        OPPOSITES,
        ("What is the opposite of {}?", "What's the opposite of {}?", "Tell me the opposite of {}.", "Opposite of {}?",
         "Name the opposite of {}.", "Give me the opposite of {}.", "Which word is the opposite of {}?"),
        "The opposite of {} is {}.", "{}",
    ),
    "language": (
        LANGUAGES,
        ("Which language do people speak in {}?", "What language is spoken in {}?", "What is the language of {}?",
         "Which language is spoken in {}?", "Tell me the language of {}.", "What do people in {} speak?"),
        "People in {} speak {}.", "{}",
    ),
    "currency": (
        CURRENCIES,
        ("What is the currency of {}?", "Which currency is used in {}?", "What money do people use in {}?",
         "Tell me the currency of {}.", "What's the currency of {}?", "How do people pay in {}?"),
        "The currency of {} is {}.", "{}",
    ),
    "symbol": (
        SYMBOLS,
        ("What is the chemical symbol for {}?", "What is the symbol of {}?", "Which symbol does {} have?",
         "Tell me the chemical symbol for {}.", "What's the chemical symbol of {}?", "Chemical symbol for {}?"),
        "The chemical symbol for {} is {}.", "{}",
    ),
    "plural": (
        PLURALS,
        ("What is the plural of {}?", "What's the plural of {}?", "Tell me the plural of {}.", "Plural of {}?",
         "Give me the plural of {}.", "What do you call more than one {}?"),
        "The plural of {} is {}.", "{}",
    ),
    "month": (
        MONTH_DAYS,
        ("How many days does {} have?", "How many days are in {}?", "How many days are there in {}?",
         "Tell me the number of days in {}.", "What is the number of days in {}?", "How long is {} in days?"),
        "{} has {} days.", "{}",
    ),
}  # fmt: skip
