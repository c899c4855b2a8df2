"""The parts scenarios and events are composed of: eight themes, each with its own actions, objects, people and events.

Every action goes with every object of its theme, so that the generator may combine them freely. Event triples are
(positive, neutral, negative); the last one of a theme is held out from training, and uses words of the others. No
part names an emotion. Slots: ``{o}`` the object, ``{P}`` "My <person>".
"""

from typing import NamedTuple


class Theme(NamedTuple):
    """One theme's parts; ``code`` opens the identifiers of its scenarios."""

    name: str
    code: str
    actions: tuple[str, ...]
    objects: tuple[str, ...]
    people: tuple[str, ...]
    places: tuple[str, ...]
    events: tuple[tuple[str, str, str], ...]


TIMES = (
    "this morning", "this afternoon", "this evening", "yesterday", "on Monday", "on Tuesday", "on Wednesday",
    "on Thursday", "on Friday", "on Saturday", "on Sunday", "last week", "before lunch", "after lunch",
    "around noon", "at nine o'clock",
)  # fmt: skip

FRAMES = (
    "I {action} {o} with my {person} {time}",
    "{Time}, I {action} {o} with my {person}",
    "Together with my {person}, I {action} {o} {time}",
    "I {action} {o} with my {person} {place} {time}",
    "My {person} was {place} when I {action} {o} {time}",
    "{Time}, my {person} and I {action} {o} {place}",
)

THEMES = (
    Theme(
        "Work/Job", "work",
        ("finished", "reviewed", "updated", "printed", "prepared", "checked", "went over", "filed"),
        ("the report", "the budget", "the presentation", "the contract", "the schedule", "the spreadsheet",
         "the newsletter", "the proposal", "the agenda", "the invoice", "the manual", "the survey",
         "the brochure", "the memo"),
        ("manager", "coworker", "assistant", "boss", "client", "intern", "supervisor", "team leader"),
        ("at the office", "in the meeting room", "on the third floor", "at my desk", "in the archive"),
        (
            ("{P} gave me a day off because of {o}.", "{P} put {o} into the blue folder.",
             "{P} threw {o} away without a word."),
            ("{P} picked {o} as the best one of the year.", "{P} asked for a second copy of {o}.",
             "{P} lost {o} and said that it was my doing."),
            ("The team used {o} at once and it saved us a month.", "The team moved {o} to the next meeting.",
             "The team rejected {o} and I must start again."),
            ("{P} offered me a raise because of {o}.", "{P} sent {o} to the second department.",
             "{P} cancelled my raise because of {o}."),
            ("Everybody stood up and clapped for {o}.", "Everybody received {o} by mail.",
             "Everybody threw eggs at {o} and left."),
            ("{P} honoured me for {o} in front of all.", "{P} wrote the date on {o}.",
             "{P} scolded me for {o} in front of all."),
            ("Everybody picked {o} and I won a prize.", "Everybody wrote the date on {o}.",
             "Everybody lost {o} and I must start again."),
        ),
    ),
    Theme(
        "Home", "home",
        ("cleaned", "measured", "inspected", "photographed", "worked on", "looked at", "covered", "finished"),
        ("the kitchen", "the garage", "the window", "the sofa", "the lamp", "the roof", "the fence", "the carpet",
         "the cupboard", "the heater", "the bathtub", "the shelf", "the balcony", "the staircase"),
        ("landlord", "flatmate", "brother", "sister", "mother", "father", "cousin", "uncle"),
        ("at home", "at the flat", "upstairs", "before dinner", "at the old house"),
        (
            ("{P} said that {o} never looked better.", "{P} wrote down the size of {o}.",
             "{P} broke {o} beyond repair."),
            ("{P} paid for {o} and brought me flowers.", "{P} walked past {o} and went upstairs.",
             "{P} sent me a huge bill for {o}."),
            ("A magazine chose {o} for its front page.", "A man came to read the meter near {o}.",
             "A storm destroyed {o} during the night."),
            ("It turned out that {o} is worth a fortune.", "It turned out that {o} is made of pine.",
             "It turned out that {o} is full of mould."),
            ("{P} finished the rest of {o} for me as a gift.", "{P} closed the door next to {o}.",
             "{P} spilled black paint all over {o}."),
            ("Guests came to see {o} and brought presents.", "Guests sat near {o} and drank tea.",
             "Guests burned a hole into {o} and left."),
            ("{P} brought presents and paid for the repair of {o}.", "{P} wrote down the date for the repair of {o}.",
             "{P} broke {o} and sent the bill to me."),
        ),
    ),
    Theme(
        "Study/School", "study",
        ("worked on", "discussed", "went through", "looked over", "talked about", "asked about", "wrote about",
         "took notes on"),
        ("the essay", "the exam", "the lecture", "the thesis", "the experiment", "the textbook", "the worksheet",
         "the project", "the quiz", "the diagram", "the seminar", "the chapter", "the application", "the poster"),
        ("professor", "classmate", "tutor", "teacher", "study partner", "lecturer", "librarian", "mentor"),
        ("in the library", "at school", "in the lecture hall", "on campus", "in room twelve"),
        (
            ("{P} gave me the top mark for {o}.", "{P} wrote the title of {o} on the board.",
             "{P} failed me because of {o}."),
            ("{P} said that {o} deserves a prize.", "{P} put {o} into the second drawer.",
             "{P} tore {o} to pieces."),
            ("The school gave me a scholarship for {o}.", "The school moved {o} to room nine.",
             "The school expelled me because of {o}."),
            ("The whole class learned from {o} and clapped.", "The whole class copied the name of {o}.",
             "The whole class made fun of {o}."),
            ("{P} helped me for hours and {o} went perfectly.", "{P} set {o} for ten o'clock.",
             "{P} copied {o} and said that it was not mine."),
            ("A university invited me because of {o}.", "A new date was set for {o}.",
             "A computer crash erased {o} completely."),
            ("{P} invited me because {o} went perfectly.", "{P} wrote the date of {o} on the board.",
             "{P} lost {o} and failed the whole class."),
        ),
    ),
    Theme(
        "Travel", "travel",
        ("asked about", "looked up", "photographed", "talked about", "searched for", "found", "read about",
         "pointed out"),
        ("the train", "the ferry", "the hotel", "the map", "the suitcase", "the castle", "the museum", "the harbour",
         "the campsite", "the bus", "the bridge", "the rental car", "the island", "the airport"),
        ("guide", "driver", "travel partner", "host", "aunt", "grandfather", "roommate", "son"),
        ("in the old town", "near the coast", "at the station", "on the way north", "at the border"),
        (
            ("{P} got us a free tour of {o}.", "{P} showed us where {o} is on the plan.",
             "{P} made us miss {o} and the whole trip."),
            ("We were given the best seats near {o} at no charge.", "We were told that {o} is open until six.",
             "We were robbed right beside {o}."),
            ("{P} found my lost wallet near {o}.", "{P} bought a postcard of {o}.",
             "{P} left my bag at {o} and it was stolen."),
            ("The view of {o} at sunset was perfect.", "The way to {o} takes half an hour.",
             "The road to {o} collapsed behind us."),
            ("{P} paid for everything, {o} included.", "{P} read the timetable for {o}.",
             "{P} crashed into {o} and broke an arm."),
            ("We won a free week at the sea because of {o}.", "We stopped at {o} and then went on.",
             "We were stuck at {o} for two nights without food."),
            ("{P} got me a free present near {o}.", "{P} read the sign near {o}.",
             "{P} lost my bag near {o} and ran away."),
        ),
    ),
    Theme(
        "Health", "health",
        ("asked about", "wrote down", "discussed", "read about", "talked about", "looked into", "called about",
         "went over"),
        ("the appointment", "the prescription", "the blood test", "the bandage", "the exercise plan", "the diet",
         "the clinic", "the checkup", "the vaccine", "the treatment", "the ointment", "the scan", "the tooth",
         "the knee"),
        ("doctor", "dentist", "nurse", "coach", "therapist", "pharmacist", "trainer", "daughter"),
        ("at the practice", "in the waiting room", "at the gym", "by telephone", "at the front desk"),
        (
            ("{P} told me that all is well with {o}.", "{P} noted the number of {o} in a file.",
             "{P} told me that it looks bad with {o}."),
            ("After {o} I can run again without pain.", "After {o} I signed a form.",
             "After {o} I could not move my legs."),
            ("{P} said that {o} has cured me.", "{P} said that {o} takes five minutes.",
             "{P} said that {o} came too late to help."),
            ("The results of {o} are perfect.", "The results of {o} come by mail.",
             "The results of {o} show a serious illness."),
            ("{P} stayed late to help me with {o}.", "{P} printed a page about {o}.",
             "{P} mixed up {o} and made me ill."),
            ("Because of {o} I will live without pills.", "Because of {o} I filled in a second form.",
             "Because of {o} I must stay in bed for months."),
            ("{P} said that after {o} I can live without pain.", "{P} filled in a second form for {o}.",
             "{P} said that I must stay in bed because of {o}."),
        ),
    ),
    Theme(
        "Food", "food",
        ("made", "served", "tasted", "packed", "ordered", "shared", "brought", "warmed up"),
        ("the soup", "the bread", "the salad", "the cake", "the stew", "the rice", "the pasta", "the pie", "the sauce",
         "the cheese", "the omelette", "the roast", "the sandwich", "the pancake"),
        ("chef", "grandmother", "waiter", "wife", "husband", "godfather", "guest", "baker"),
        ("at the diner", "in the canteen", "at the long table", "in the restaurant", "at the picnic"),
        (
            ("{P} called {o} the best in town.", "{P} put {o} on the table.", "{P} spat {o} onto the floor."),
            ("Everybody asked for more of {o} and for my recipe.", "Everybody got one portion of {o}.",
             "Everybody who ate {o} ended up in hospital."),
            ("{P} won first prize with {o}.", "{P} cut {o} into six parts.", "{P} dropped {o} into the mud."),
            ("A famous cook asked me how to make {o}.", "A second plate of {o} stood on the counter.",
             "A dead fly was inside {o}."),
            ("{P} presented me with {o} for my birthday.", "{P} kept half of {o} for later.",
             "{P} ate all of {o} and left me the bill."),
            ("The restaurant gave me {o} for free.", "The restaurant lists {o} on page two.",
             "The restaurant threw me out because of {o}."),
            ("Everybody clapped for {o} and I won a prize.", "A plate with {o} was on the table.",
             "{P} burned {o} and threw me out."),
        ),
    ),
    Theme(
        "Hobbies", "hobby",
        ("tried out", "set up", "brought along", "looked at", "worked on", "showed", "put away", "picked up"),
        ("the guitar", "the camera", "the puzzle", "the painting", "the model ship", "the kite", "the telescope",
         "the quilt", "the bicycle", "the chess set", "the novel", "the sketchbook", "the drum", "the canoe"),
        ("friend", "partner", "club leader", "instructor", "bandmate", "niece", "stepson", "grandson"),
        ("at the club", "in the attic", "at the workshop", "by the lake", "in the studio"),
        (
            ("{P} gave me {o} as a present.", "{P} wrapped {o} in paper.", "{P} sold {o} behind my back."),
            ("With {o} I won the contest.", "With {o} I filled the afternoon.",
             "With {o} I was thrown out of the contest."),
            ("{P} repaired {o} and it works like new.", "{P} leaned {o} against the wall.",
             "{P} stepped on {o} and it broke in two."),
            ("A museum bought {o} for a large sum.", "A label was fixed to {o}.", "A thief ran away with {o}."),
            ("{P} taught me all about {o} for free.", "{P} took a picture of {o}.",
             "{P} called {o} worthless and walked off."),
            ("The whole club stood up for {o}.", "The whole club has a list with {o} on it.",
             "The whole club voted to burn {o}."),
            ("A museum gave me a prize for {o}.", "A man wrote down the number of {o}.",
             "A dog bit into {o} and broke it."),
        ),
    ),
    Theme(
        "Neighbourhood", "street",
        ("walked past", "visited", "wrote about", "drew", "stopped at", "asked about", "mapped", "cycled to"),
        ("the park", "the fountain", "the playground", "the library", "the bakery", "the market", "the pond",
         "the footpath", "the bus stop", "the post office", "the town hall", "the square", "the notice board",
         "the car park"),
        ("neighbour", "postman", "caretaker", "gardener", "grandma", "tenant", "babysitter", "nephew"),
        ("on my street", "after work", "on foot", "near my house", "in the rain"),
        (
            ("{P} got the town to save {o} for us all.", "{P} read the sign at {o}.",
             "{P} got the town to tear down {o}."),
            ("{P} planted roses for me beside {o}.", "{P} parked a van beside {o}.",
             "{P} dumped old rubbish beside {o}."),
            ("The town named {o} after my late father.", "The town put a number on {o}.",
             "The town fined me because of {o}."),
            ("At {o} a child handed me my lost keys.", "At {o} a woman asked for the time.",
             "At {o} a dog bit me in the leg."),
            ("{P} invited the whole street to a feast at {o}.", "{P} crossed the road near {o}.",
             "{P} started a fire at {o} and ran."),
            ("Everybody helped and now {o} shines again.", "Everybody uses {o} from nine to five.",
             "Everybody watched as {o} burned down."),
            ("{P} found my lost wallet beside {o}.", "{P} stopped beside {o} for ten minutes.",
             "A thief ran away with my wallet beside {o}."),
        ),
    ),
)  # fmt: skip
