"""What people did, counted: neighbors of items, the scores and the reasons that come from them.

build      the heaviest history items of each item by co-occurrence, and exact numbers of people
steps      lower bounds in steps, the only numbers about people that leave a build
identity   what the artifact depends on, without torch
artifact   the artifact, mapped
scores     the part of a recommendation's score, and its weight b
reasons    which history item contributed most to a pair's score
sentences  how to say so without a language model
make       the job: dataset and graph in, artifact out
"""
