"""Words that the generators draw from. No order or index in them carries meaning."""


def words(text: str) -> list[str]:
    return text.split()


NAMES = words("""
Ada Adam Aisha Akira Alan Alba Alex Alice Alma Amara Amir Amy Ana Anders Andre Angela Anika Anna Anton Aria
Arthur Astrid Aya Beatrice Ben Bella Bianca Boris Bruno Camila Carl Carla Carlos Carmen Cecilia Chen Chloe
Clara Colin Cora Dana Daniel Daria David Diana Diego Dina Dmitri Dora Edgar Edith Elena Eli Elias Elif Ella
Elsa Emil Emily Emma Erik Esther Ethan Eva Farah Felix Fiona Flora Frank Freya Gabriel George Gina Grace Greta
Gustav Hana Hanna Harry Hassan Hazel Heidi Helen Henry Hugo Ian Ibrahim Ida Igor Imani Ines Ingrid Irene Iris
Isaac Ivan Jack Jacob James Jamila Jan Jana Jasmine Jean Jin Joan Joel John Jonas Jose Julia Julian Kai Karim
Karin Kate Keiko Kevin Khalid Kim Klara Kofi Lars Laura Layla Lea Lena Leo Leon Lia Liam Lila Lily Lina Linda
Lisa Liv Louis Luca Lucia Lucy Luis Luna Lydia Maja Malik Marco Maria Marie Mark Marta Martin Mary Max Maya
Mei Mia Mila Milo Mina Mira Mohammed Mona Musa Nadia Naomi Nia Nico Nina Noah Noor Nora Olaf Olga Oliver Omar
Oscar Otto Owen Pablo Paul Paula Pedro Peter Petra Philip Pia Priya Quinn Rahul Raj Ravi Rita Robert Rosa Rose
Ruby Ruth Ryan Salma Sam Samir Sandra Sara Sasha Selma Sergei Simon Sofia Sonia Stefan Stella Sven Tara Tariq
Theo Thomas Tim Tina Tom Tomas Uma Vera Victor Viktor Violet Wanda Wei Willa Yara Yasmin Yuki Yusuf Zara Zoe
""")

CITIES = words("""
Accra Amsterdam Athens Auckland Austin Baghdad Baku Bangkok Barcelona Basel Beijing Beirut Belgrade Bergen
Berlin Bern Bogota Bologna Boston Bratislava Brisbane Brussels Bucharest Budapest Cairo Calgary Casablanca
Chicago Cologne Copenhagen Dakar Dallas Delhi Denver Dhaka Doha Dresden Dubai Dublin Edinburgh Florence
Frankfurt Geneva Ghent Glasgow Granada Hamburg Hanoi Havana Helsinki Houston Istanbul Jakarta Kabul Kampala
Karachi Kigali Krakow Kyiv Kyoto Lagos Lahore Leeds Leipzig Lima Lisbon Liverpool Ljubljana London Luanda Lyon
Madrid Malaga Manchester Manila Marseille Melbourne Miami Milan Minsk Montreal Moscow Mumbai Munich Nairobi
Naples Nice Nicosia Osaka Oslo Ottawa Palermo Paris Perth Porto Prague Quito Reykjavik Riga Rome Rotterdam
Santiago Seattle Seoul Seville Shanghai Singapore Sofia Stockholm Stuttgart Sydney Taipei Tallinn Tbilisi
Tehran Tirana Tokyo Toronto Toulouse Tunis Turin Utrecht Valencia Vancouver Venice Vienna Vilnius Warsaw
Wellington Yerevan Zagreb Zurich
""")

COLOURS = words("""
red blue green yellow orange purple pink brown black white grey silver golden turquoise violet crimson
""")

ANIMALS = words("""
ant badger bat bear beaver bee bison boar butterfly camel cat cheetah cow crab crane crocodile crow deer dog
dolphin donkey dove duck eagle eel elephant falcon ferret finch fish fox frog giraffe goat goose gorilla
hamster hare hawk hedgehog heron hippo horse hyena jaguar kangaroo kitten koala lamb lark leopard lion lizard
lobster lynx magpie mole monkey moose mouse mule newt octopus otter owl ox panda panther parrot peacock
pelican penguin pig pigeon pony puma puppy rabbit raccoon rat raven robin salmon seal shark sheep shrimp snail
snake sparrow spider squirrel stork swan tiger toad trout turtle viper walrus wasp weasel whale wolf wombat
zebra
""")

FOODS = words("""
almond apple apricot bacon bagel banana basil bean beet berry biscuit bread broccoli butter cabbage cake
carrot celery cheese cherry chestnut chocolate cinnamon coconut cookie corn cream cucumber curry date egg fig
garlic ginger grape ham hazelnut honey jam kale kiwi leek lemon lentil lettuce lime mango melon milk mint
muffin mushroom mustard noodle nut oat olive onion orange paprika parsley pasta peach peanut pear pepper
pickle pie pizza plum popcorn potato pudding pumpkin radish raisin rice salad salt sauce soup spinach
strawberry sugar toast tomato turnip vanilla vinegar waffle walnut yogurt
""")

THINGS = words("""
anchor apron arrow axe bag ball balloon barrel basket bathtub bell belt bench bicycle blanket boat book boot
bottle bowl box bracelet bread brick bridge broom brush bucket button cable camera candle cane canoe cap card
carpet cart castle chain chair chalk chest clock cloth coat coin comb compass cord couch crown cup curtain
cushion desk diamond dish door drawer dress drill drum easel engine envelope fan feather fence flag flask
flower flute folder fork fountain frame garden gate gift glass globe glove guitar hammer hammock handle harp
hat helmet hook hose ink jacket jar jewel jug kettle key kite knife knot ladder lamp lantern laptop leaf lens
letter lid lock magnet map marble mask mat medal mirror mitten mug nail napkin necklace needle nest net
notebook oar oven paddle paint pan paper parcel peg pen pencil piano pillow pin pipe plate pocket pot printer
purse puzzle quilt radio rake raft ribbon ring robe rocket rope rug ruler sack saddle sail saw scarf scissors
screw shelf shell shield ship shirt shoe shovel sieve sign sink skirt sled soap sock spade spoon stamp statue
stick stone stool stove string suitcase sweater sword table tablet tape tea telescope tent ticket tie tile
torch towel tower toy train tray trumpet trunk umbrella vase vest violin wagon wallet watch wheel whistle
window wire wool wrench zipper
""")

PLACES = words("""
attic bakery barn beach bridge cabin cafe cave cellar church cliff cottage desert farm field forest fountain
garden garage gym harbour hill hospital hotel house island jungle kitchen lake library lighthouse market
meadow mill mountain museum office orchard palace park playground pond port river school shop stable stadium
station street studio temple theatre tower tunnel valley village well workshop yard zoo
""")

JOBS = words("""
actor architect artist baker barber builder butcher carpenter chef clerk cook dancer dentist designer doctor
driver editor engineer farmer firefighter fisher florist gardener guard hunter judge lawyer librarian mechanic
miner musician nurse painter pilot plumber poet potter printer sailor scientist shepherd singer soldier
surgeon tailor teacher translator vet waiter weaver writer
""")

ADJECTIVES = words("""
able ancient angry bare bitter blind bold brave brief bright broad broken busy calm careful cheap cheerful
clean clear clever cold common cool crisp curious curved damp dark dear deep dense distant dry dull dusty
eager early easy empty equal exact faint fair famous fancy fast fierce final fine firm flat fond foreign fresh
friendly full funny gentle giant glad grand grateful great happy hard heavy hidden high hollow honest huge
humble hungry icy idle jolly keen kind large late lazy light little lively lonely long loose loud low loyal
lucky mild modern muddy narrow neat new nice noble noisy odd old open pale patient plain pleasant polite poor
pretty proud pure quick quiet rapid rare raw ready rich ripe rough round royal rusty sad safe secret serious
shallow sharp shiny short shy silent simple sleepy slim slow small smart smooth soft solid sour spare special
steady steep stiff strange strict strong stubborn sudden sunny sweet swift tall tame tender thick thin tidy
tiny tired tough tricky true vast warm weak wet wide wild wise wonderful wooden young
""")

VERBS = words("""
accept add admire agree allow answer appear arrive ask bake balance bathe begin believe bend boil borrow
bounce break breathe bring build burn buy call carry catch change chase cheer choose clap climb close collect
come compare copy count cover crawl create cross cry dance decide deliver describe dig discover divide draw
dream drink drive drop earn eat enjoy enter escape explain explore fall feed feel fetch fill find finish fix
float fly fold follow forget forgive gather give glow grow guess guide hang hear help hide hold hope hunt
hurry imagine improve invite join juggle jump keep kick knit knock know laugh lead learn leave lend lift
listen live look lose love make march mark measure meet melt mend mix move notice obey offer open order pack
paint pass pause pay peel pick plant play point polish pour practise prepare press promise protect pull push
quarrel raise reach read remember repair repeat rest return ride rise roll rub run sail save search see sell
send serve sew shake share shine shout show sing sit skate sleep slide smell smile solve speak spell spend
spin stand stare start stay steal stir stop stretch study swallow sweep swim swing take talk taste teach tell
thank think throw tie touch travel trust try turn twist understand use visit wait wake walk wander want warn
wash watch wave wear weave weigh whisper win wish wonder work wrap write yawn
""")

NATURE = words("""
air autumn bay beam bloom branch breeze brook bush cloud coast comet coral creek dawn day dew dune dusk dust
earth evening fire flame flood foam fog frost glacier grass gravel hail ice moon morning moss mud night north
ocean pebble petal plain planet pool rain rainbow reef ridge rock root sand sea season seed shade shadow shore
sky smoke snow soil south spark spring star steam storm stream summer sun sunset swamp thunder tide tree vine
volcano water waterfall wave west wind winter wood
""")

ABSTRACT = words("""
advice age answer art battle belief birth cause chance charm choice comfort courage cure danger debt doubt
dream duty effort end energy error event fact faith fame fate fear freedom game goal habit hope hour idea joke
journey joy justice language law lesson level life limit list luck magic memory method minute moment mood
music mystery need news noise number offer opinion pain part past patience peace place plan point power price
prize problem promise proof question reason rest reward rhyme riddle risk rule science secret sense shape
silence skill song sound speed spirit story style surprise talent task test theory thought time title touch
trade trick trip trouble truth value view visit voice way week wisdom word work world year
""")

DAYS = words("""
Monday Tuesday Wednesday Thursday Friday Saturday Sunday
""")

MONTHS = words("""
January February March April May June July August September October November December
""")

COMMON = words("""
a about above across actually after again against ago all almost alone along already also although always am among an
and another any anybody anything are around as at away back be became because become been before behind being below
beneath beside between beyond bit both but by came can cannot certain come could did different do does doing done down
during each eight either else enough even evening ever every everybody everyone everything except far few fifty first
five for forty four from front further gave get goes going gone good got had half has have having he hello her here
hers herself hi him himself his how however hundred if in indeed inside instead into is it its itself just kept knew
lady last least left less let likely made man many may maybe me mean meant might million mine more morning most mostly
mother much must my myself near nearly never next nine no nobody none nor not nothing now nowhere of off often oh on
once one only onto or other others our ours out outside over own past people perhaps please put quite rather really
right said same saw say second seem seemed seen self seven several shall she should since six so some somebody someone
something sometimes somewhere soon still such sure ten than thanks that the their theirs them themselves then there
these they thing things third thirty this those though thousand three through thus to today together tomorrow tonight
too took toward towards twelve twenty two under until up upon us usually very was way we well went were what whatever
when where whether which while who whole whom whose why will with within without woman wonder would yes yesterday yet
you your yours yourself zero
apples baby bottles boy brother business buses child children computer country dad daughter dogs door evenings example
eyes family father feet friend friends girl government grandma grandpa group hands hands history horses husband
internet keyboard kids language letters lines message million money morning mum music nations number numbers parents
phone picture pictures player program robot screen server sister son student sun system teacher team telephone test
token tokens train university video water website week wife window woman women words worker world year years
able actually agreed angry asked became began believe best better big biggest bought broke brought built called came
caught chose closed coming cut died drank drove eaten fallen fast faster fell felt flew forgot found free gave given
grew heard held helped hidden jumped jumps kept known larger largest later left liked lived looking lost loved making
moved named needed older opened others paid played quickest ran reached real ridden rode running sang sent shown slept
smaller sold spent spoke started stood stopped strongest swam taken talked taught thought threw told tried turned used
waited walked wanted watched whispered wished won wore worked worse worst written wrong wrote
lorem ipsum quick brown lazy foo bar baz alpha beta gamma delta omega hello world strawberry mississippi
""")

HEROES = words("""
boy captain clown cowboy detective dragon elf emperor explorer fairy genie ghost giant girl giraffe gnome hero inventor
king knight mermaid monster mummy ninja phoenix pirate prince princess queen robot scarecrow snowman spy superhero thief
traveller troll unicorn vampire viking wizard witch
""")

WORDS = sorted({*COLOURS, *ANIMALS, *FOODS, *THINGS, *PLACES, *JOBS, *ADJECTIVES, *VERBS, *NATURE, *ABSTRACT})
"""Every common word, once, in alphabetical order."""
