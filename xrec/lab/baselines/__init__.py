"""Baselines: published models that explain recommendations, and low-rank weights.

    train_baseline         dataset in, a trained baseline out   (train, trainer)
    write_baseline_texts   pairs in, texts out                  (texts)

baseline    one of them with its seed: what it reads, its recipe, where its model lies
peter, lora the models; peter writes, too
codec       texts as rows of words
data        explained pairs as examples and batches
artifact    the trained baseline in files
"""
