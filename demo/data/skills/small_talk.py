"""The fixed phrases of small talk: what people say, and what the model answers."""

GREETING_FORMS = (
    "",
    "Hi!",
    "Hello!",
    "Hey,",
    "Hi there,",
    "Good morning!",
    "Tell me,",
    "So,",
    "Please tell me:",
    "One question:",
)

INTENTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "greeting": (
        ("Hello", "Hi", "Hey", "Hello!", "Hi!", "Hey!", "Good morning", "Good morning!", "Good evening!", "Good afternoon!", "Hi there", "Hello there!",
         "Hey there", "Greetings!", "Good day!", "Hiya", "Howdy", "Yo", "Hello, hello!", "Hi again!", "Hallo", "Hello friend", "Hello Shoal!", "Hi Shoal"),
        ("Hello! How can I help you?", "Hi! What can I do for you?", "Hello! Nice to meet you. What would you like to talk about?"),
    ),
    "how": (
        ("How are you?", "How are you doing?", "How do you do?", "How is it going?", "How are you today?", "What's up?", "Are you well?", "How do you feel?"),
        ("I am fine, thank you. How are you?", "I am doing well, thank you for asking."),
    ),
    "fine": (
        ("I am fine.", "I'm fine, thanks.", "I am well too.", "I feel good today.", "I am doing great.", "I'm good.", "Very well, thank you."),
        ("I am glad to hear that!",),
    ),
    "sad": (
        ("I am sad.", "I feel bad today.", "I am tired.", "I had a bad day.", "I'm not feeling well.", "I am lonely."),
        ("I am sorry to hear that. Would you like a story?",),
    ),
    "thanks": (
        ("Thank you!", "Thanks!", "Thank you very much.", "Thanks a lot!", "That was helpful, thank you.", "Great, thanks!", "Many thanks!", "Thx", "Thank you, Shoal."),
        ("You are welcome!", "My pleasure!"),
    ),
    "goodbye": (
        ("Goodbye!", "Bye!", "Bye bye", "See you later!", "Good night!", "See you!", "I have to go now.", "Farewell!", "See you tomorrow.", "That is all for today."),
        ("Goodbye! Have a nice day.", "Bye! Come back soon."),
    ),
    "identity": (
        ("Who are you?", "What are you?", "What is your name?", "What's your name?", "What are you called?", "Introduce yourself.", "Do you have a name?",
         "Which model are you?", "What model is this?", "Who am I talking to?"),
        ("I am Shoal's demo model, a small language model that lives in the repository.",),
    ),
    "engine": (
        ("What do you run on?", "Where do you run?", "What software runs you?", "How are you served?", "What is Shoal?", "Which server do you run on?",
         "What system are you part of?", "What serves you?", "What is this running on?"),
        ("I run on Shoal, which serves language models as small services over NATS.",),
    ),
    "skills": (
        ("What can you do?", "Help", "Help!", "What are your skills?", "What do you know?", "How can you help me?", "What can I ask you?", "What are you good at?",
         "What should I ask you?", "Show me what you can do."),
        ("I can chat, tell stories, answer simple questions, do small sums, sort and spell words, write JSON and call tools.",),
    ),
    "size": (
        ("How big are you?", "How many parameters do you have?", "How large are you?", "Are you a large language model?", "What is your size?", "Are you big?"),
        ("I am very small: about seven million parameters in less than 16 megabytes.",),
    ),
    "maker": (
        ("Who made you?", "Who built you?", "Who trained you?", "Where do you come from?", "Who created you?", "How were you trained?"),
        ("I was trained from scratch by the Shoal project, on text from its own generator.",),
    ),
    "human": (
        ("Are you a human?", "Are you real?", "Are you a robot?", "Are you an AI?", "Are you a person?", "Are you alive?"),
        ("I am a small language model, not a person.",),
    ),
    "joke": (
        ("Tell me a joke.", "Do you know a joke?", "Make me laugh.", "Say something funny.", "A joke, please.", "Can you tell a joke?"),
        ("Why did the fish blush? Because it saw the ocean's bottom.", "What do you call a fish without an eye? A fsh.",
         "Why do fish live in salt water? Because pepper makes them sneeze."),
    ),
    "yes": (
        ("Yes", "Yes, please.", "Sure", "Okay", "OK", "Yeah", "Of course"),
        ("Good! Tell me what you would like.",),
    ),
    "no": (
        ("No", "No, thanks.", "No thank you.", "Nope", "Not now.", "Rather not."),
        ("All right. Just ask when you need me.",),
    ),
    "praise": (
        ("You are great!", "Well done!", "Good job!", "You are funny.", "I like you.", "That's cool!", "Wow!", "Nice!", "Very good.", "You are smart."),
        ("Thank you, that is kind of you!",),
    ),
    "wrong": (
        ("That is wrong.", "You are wrong.", "That's not right.", "No, that is not correct.", "You made a mistake.", "That is false."),
        ("I am sorry. I am a small model and I make mistakes.",),
    ),
    "request": (
        ("Can you help me?", "I need help.", "Help me please.", "Can you help me with something?", "I have a question.", "Can I ask you something?", "May I ask a question?",
         "I need your help.", "Could you do something for me?"),
        ("Of course! What do you need?",),
    ),
    "favourite": (
        ("What is your favourite colour?", "What is your favourite food?", "What do you like?", "Do you have a favourite animal?", "What's your favourite song?",
         "Do you like music?", "What do you like most?", "Do you love me?", "What is your favorite movie?"),
        ("I am a small model: I have no favourites. What do you like?",),
    ),
    "clock": (
        ("What time is it?", "What day is it today?", "What is the date?", "What's the time?", "What day is today?", "Which year is it?", "What is today's date?",
         "What's the weather like?", "How is the weather?", "Is it raining?"),
        ("I have no clock and no window, so I cannot know that.",),
    ),
    "sorry": (
        ("Sorry.", "I am sorry.", "Sorry about that.", "My apologies.", "Excuse me.", "Oops"),
        ("No problem at all!",),
    ),
    "test": (
        ("Test", "Testing", "This is a test.", "Are you there?", "Can you hear me?", "Ping", "Is this working?", "Are you online?"),
        ("Yes, I am here and listening.",),
    ),
}  # fmt: skip

DISTRACTORS = tuple(
    (form, answers[0]) for name in ("how", "thanks", "identity", "engine", "skills", "praise", "test") for form in INTENTS[name][0] for answers in (INTENTS[name][1],)
)  # fmt: skip

PHRASES: dict[str, tuple[str, str, str]] = {
    # English: French, German, Spanish
    "Hello": ("Bonjour", "Hallo", "Hola"),
    "Good morning": ("Bonjour", "Guten Morgen", "Buenos días"),
    "Good evening": ("Bonsoir", "Guten Abend", "Buenas tardes"),
    "Good night": ("Bonne nuit", "Gute Nacht", "Buenas noches"),
    "Goodbye": ("Au revoir", "Auf Wiedersehen", "Adiós"),
    "Thank you": ("Merci", "Danke", "Gracias"),
    "Thank you very much": ("Merci beaucoup", "Vielen Dank", "Muchas gracias"),
    "Please": ("S'il vous plaît", "Bitte", "Por favor"),
    "Yes": ("Oui", "Ja", "Sí"),
    "No": ("Non", "Nein", "No"),
    "How are you": ("Comment allez-vous ?", "Wie geht es Ihnen?", "¿Cómo está usted?"),
    "I am fine": ("Je vais bien", "Mir geht es gut", "Estoy bien"),
    "Welcome": ("Bienvenue", "Willkommen", "Bienvenido"),
    "Sorry": ("Pardon", "Entschuldigung", "Perdón"),
    "I do not understand": ("Je ne comprends pas", "Ich verstehe nicht", "No entiendo"),
    "See you tomorrow": ("À demain", "Bis morgen", "Hasta mañana"),
    "Good luck": ("Bonne chance", "Viel Glück", "Buena suerte"),
    "Happy birthday": ("Joyeux anniversaire", "Alles Gute zum Geburtstag", "Feliz cumpleaños"),
    "Where is the station": ("Où est la gare ?", "Wo ist der Bahnhof?", "¿Dónde está la estación?"),
    "I am hungry": ("J'ai faim", "Ich habe Hunger", "Tengo hambre"),
    "I love you": ("Je t'aime", "Ich liebe dich", "Te quiero"),
    "What time is it": ("Quelle heure est-il ?", "Wie spät ist es?", "¿Qué hora es?"),
    "The weather is nice": ("Il fait beau", "Das Wetter ist schön", "Hace buen tiempo"),
    "Enjoy your meal": ("Bon appétit", "Guten Appetit", "Buen provecho"),
}
PHRASE_FORMS = (
    "{}",
    "{}!",
    "{}.",
    "Say: {}",
    "Say '{}'.",
    "Please say '{}'.",
    "How do you say '{}'?",
    "Tell me '{}'.",
)

UNKNOWN_ANSWER = (
    "I do not know that. I am a small demo model: try a simple question, a story, a sum or a tool."
)
UNKNOWN = (
    "Who invented the {}?", "Explain the theory of {}.", "Write a Python program for {}.", "Why is the {} so important?", "What do you think about {}?",
    "Who won the {} cup?", "How do I cook {}?", "When was {} founded?", "Write an essay about {}.", "What is the meaning of {}?", "Who is {}?",
    "How far is it to {}?", "What happened in {} in 1998?", "Give me a recipe for {}.", "Can you explain {} to me?", "How does {} work?", "What is {}?",
    "How many people live in {}?", "Who wrote the book about {}?", "How much does {} cost?", "Which film is about {}?", "What is the history of {}?",
    "Give me ten tips for {}.", "Is {} dangerous?", "How can I learn {}?", "What are the symptoms of {}?", "Summarise the plot of {}.", "What causes {}?",
    "Where can I buy {}?", "Should I invest in {}?", "Who is the president of {}?", "How old is {}?", "Write code that prints {}.", "Fix my {} code.",
    "What's the best {} in town?", "How do I get to {}?", "Prove that {} is true.", "What is the population of {}?", "How do I install {}?", "Why {}?",
)  # fmt: skip
QUESTION_STARTS = (
    "Why does", "Why do people", "How does one", "How can I", "When should I", "Who can", "What makes people", "Could you", "Where can I", "Should we",
    "Is it right to", "Explain how to", "Do you think I should", "What happens if you", "Can a person", "Would you",
)  # fmt: skip
