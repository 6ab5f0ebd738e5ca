"""Words that tell what a profile praises from whom it speaks to, what it excuses, and filling."""

from xrec.data.english import word_set

# They love what stands before them: "craft beer enthusiasts" is craft beer.
LOVERS = word_set(
    "fan fans lover lovers enthusiast enthusiasts foodie foodies connoisseur connoisseurs "
    "aficionado aficionados buff buffs goer goers eater eaters drinker drinkers admirer admirers"
)
# Whom a place suits; what stands before them is no part of it: "pet owners".
PEOPLE = word_set(
    "user users individual individuals people customer customers seeker seekers visitor visitors "
    "diners shopper shoppers resident residents traveler travelers traveller travellers adult "
    "adults those student students professional professionals person someone anyone guest guests "
    "patron patrons local locals tourist tourists couple couples kid kids child children friend "
    "friends family families group groups woman women man men parent parents owner owners client "
    "clients reader readers collector collectors gamer gamers runner runners hiker hikers biker "
    "bikers audience audiences crowd crowds vegetarians vegans consumer consumers worker workers "
    "hipsters artisans homeowner homeowners contractor contractors hobbyist hobbyists gardener "
    "gardeners camper campers decorator decorators crafter crafters regular regulars millennial "
    "millennials golfer golfers angler anglers cyclist cyclists swimmer swimmers artist artists "
    "buyer buyers fishermen picnicker picnickers planner planners watcher watchers expert experts "
    "member members newcomer newcomers beginner beginners carnivore carnivores guy guys lady "
    "ladies girl girls explorer explorers adventurer adventurers party parties age ages commuter "
    "commuters athlete athletes surfer surfers skater skaters dog-owner teenager teenagers teen "
    "teens senior seniors toddler toddlers driver drivers renter renters bride brides musician "
    "musicians maker makers player players learner learners stylist business-traveler hunter "
    "hunters organizer organizers beachgoer beachgoers sewers supporter supporters clientele"
)
# What follows is put up with, up to "would enjoy".
CAVEATS = word_set(
    "despite although though tolerate tolerates tolerating overlook overlooking mind willing "
    "patient patience unless except however inconsistent even lack lacking lacks avoid avoiding "
    "rather instead besides occasional occasionally sometimes regardless"
)
CAVEATS_END = word_set("would will enjoy appreciate love")
PEOPLES = word_set(
    "american italian mexican chinese japanese thai greek indian french spanish korean vietnamese "
    "mediterranean southern cajun creole cuban asian latin hawaiian texan tex-mex irish british "
    "german turkish lebanese persian ethiopian brazilian peruvian caribbean jamaican african "
    "filipino taiwanese malaysian indonesian moroccan argentinian argentine colombian salvadoran "
    "venezuelan european eastern western northern middle-eastern polish russian ukrainian "
    "hungarian portuguese belgian swiss neapolitan sicilian szechuan sichuan cantonese mongolian "
    "nepalese himalayan tibetan burmese pakistani afghan israeli jewish kosher halal "
    "chicago-style detroit-style californian oaxacan dominican haitian scandinavian swedish "
    "danish norwegian armenian georgian egyptian syrian iraqi cambodian laotian singaporean "
    "polynesian victorian christian catholic asian-fusion arabic uruguayan chilean guatemalan "
    "honduran ecuadorian australian canadian scottish english bavarian tuscan basque catalan"
)
ADJECTIVES = word_set(
    "live fast vegan vegetarian gluten-free fresh made-to-order unique vintage old-school sourced "
    "family-owned late-night fried rooftop waterfront hidden quality high-quality hip chill "
    "immersive welcoming engaging inviting iconic homestyle gourmet vibrant frozen relaxing "
    "accommodating entertaining comforting calming caring rotating all-you-can-eat"
)
NOUNS = word_set(
    "bbq byob wifi wi-fi diy imax option options hour hours night nights selection experience "
    "experiences product products item items picnic view views music store stores service "
    "services place photo photos side sides range drink drinks sale sales deal deals set sets "
    "gift gifts home variety hall halls club clubs shakes produce treats shows karaoke wraps "
    "crepes pho curry tastings udon kimchi facials manicures delivery brews fat"
)
ALWAYS_CAPITAL = word_set("bbq byob wifi wi-fi diy imax")
# They sound bad to the lexicons, and are not meant so here.
HARMLESS = word_set(
    "chicken nostalgic thin alcoholic game games fire fired late late-night raw pita secret fu "
    "jerk bloody haunted cut cuts war nuts killer deviled lazy fries fried broken"
)
PEOPLE_ENDINGS = ("goer", "goers", "seeker", "seekers", "watcher", "watchers", "eater", "eaters")
ADJECTIVE_ENDINGS = word_set(
    "style inspired owned friendly free based made fired themed focused oriented fashioned cooked "
    "fried sourced driven brewed order baked roasted grown cut filled packed"
)
# Praise that fits anything.
EMPTY = word_set(
    "good great excellent delicious tasty amazing nice quality high-quality top-quality top-notch "
    "exceptional outstanding wonderful fantastic awesome superb perfect decent solid lovely "
    "enjoyable pleasant flavorful various varied many different overall special specific "
    "particular general unique diverse wide extensive large vast huge interesting memorable "
    "impressive favorite best better popular such other own certain incredible ample plentiful "
    "numerous additional well-prepared well-made satisfying premium authentic traditional classic "
    "consistent true real signature new hearty fine beautiful available mouthwatering "
    "mouth-watering top ideal abundant multiple several enough broad remarkable appealing "
    "potential positive lower high higher simple regular main occasional one-stop recommended"
)
# Nouns that add nothing to the one before them: "brunch options" are brunch.
TAILS = word_set(
    "option experience offering item dish scene choice atmosphere setting selection enthusiast "
    "need service environment product quality fare variety destination chain spot size"
)
# But a beach atmosphere is no beach, and one is in the atmosphere of a dive bar.
AIRS = word_set("atmosphere setting environment scene")
HAVE_AIRS = word_set(
    "beach cafe bar pub diner lounge bistro tavern nightlife patio buffet club garden pizzeria "
    "steakhouse bakery sports-bar gastropub teahouse"
)
# What every place has: only what is said of it tells something.
PLAIN = word_set(
    "food cuisine dining atmosphere ambiance ambience vibe service staff dish price pricing menu "
    "meal environment setting spot place flavor portion quality option experience offering item "
    "scene choice selection variety product establishment business venue location restaurant "
    "eatery space area touch center joint destination chain outpost decor size special side "
    "taste fare good combination style twist bite facility goods retailer outlet supply "
    "essential presentation favorite classic addition recipe specialty creation creature range "
    "deal sale collection set project employee server worker waitstaff car vehicle water table "
    "seat chair building screen display machine cart stage counter sound light seating vendor "
    "chef instructor stylist bartender barista hour night evening morning design craft drink "
    "beverage menus vibes shop store wash"
)
SPELLINGS = {
    "fast-food": "fast food",
    "wi-fi": "wifi",
    "ambience": "ambiance",
}
# One thing in several words, which are one word with hyphens while a text is taken apart.
COMPOUNDS = (
    "middle eastern",
    "mac and cheese",
    "fish and chips",
    "chips and salsa",
    "biscuits and gravy",
    "chicken and waffles",
    "rice and beans",
    "beans and rice",
    "surf and turf",
    "arts and crafts",
    "bed and breakfast",
    "rock and roll",
    "nail services",
    "nail service",
)
# They tell of the word before them, without which they are nothing: "coal oven pizza".
CUT_OFF = word_set("oven")
# Adverbs that tell what is praised most, and not how: "especially fried chicken".
ABOVE_ALL = word_set("especially particularly mainly mostly primarily")
# What vegan and Thai food is, is two things; what warm and friendly staff is, is one.
KINDS = PEOPLES | {"vegan", "vegetarian", "gluten-free"}
# No aspects: what they name is the text's own, or the guest's.
NEVER = word_set(
    "touristy wait wait-time appeal value reason reputation issue problem lot bit importance "
    "order search appreciation budget love interest passion desire focus access occasion level "
    "opportunity "
    "craving preference need mix blend sense way kind type thing one array time day point "
    "attention recommendation restriction must-visit gem hangout outing gathering convenience "
    "consistency availability policy flexibility plenty addition part visit lifestyle date "
    "moment day-trip downtown neighborhood city town state street district heart afternoon "
    "weekend year mind mood hunger appetite palate budget-conscious one-stop adventure "
    "relaxation enjoyment satisfaction assistance measure process piece regard comfort fix stop "
    "feel touch note flair range section charm luxury simplicity authenticity quantity influence "
    "element feature aspect benefit requirement task project purchase trip travel vacation "
    "family-friendly pick-me-up reservation feedback culture work study practice support light "
    "signature title summarization concept color alternative interaction theme system release "
    "material brand site field course staple plate slice dog pet animal household preparation "
    "performance-level effort mention visitor welcome reviewer review rating standard skill "
    "knowledge mentality sweet tooth filling celebration holiday body health world penchant "
    "willingness explanation significance understanding concern idea name hint delay noise cause "
    "standout perk proximity list praise change challenge method technique tolerance ability "
    "premium property education spending emphasis category format plan planning removal "
    "involvement arrangement request presence right initiative spread exploration participation "
    "approach improvement advice sharing sample layout line offer character balance speed rate "
    "information communication talent kick check resource variation picking operation session "
    "summer connection tune production setup detail excitement promotion turnaround shape "
    "weekday league elegance go-to must-try delight excuse freshness creativity willing "
    "supply-store responder colleague coworker teacher veteran technician photographer comedian "
    "rider attendee pad banh pong catering strip-mall leg ring box counter room country boy "
    "summarizing viewing visiting home treatment farmer bulk chain watching challenging ordering "
    "payment portioned scratch hipster hotel motel restaurant eatery joint cafeteria"
)
