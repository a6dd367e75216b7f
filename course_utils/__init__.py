"""The models, objectives and training loops of the course on variational autoencoders.

Read the modules in the order in which the data flows; each may import only from those above it:

    strokes              embedded digits, drawn by our own code, with known factors
    scenes               embedded landscapes in colour, with known factors
    fetching             one large file from the web, resumed where it broke off
    captions             what was written of photographs, in every form in which it comes
    developing           a photograph of any kind as 64x64 pixels, or why not
    photographs          a folder or a zip of photographs as one array of 64x64 pixels, and a report
    data                 real and embedded images as uint8 tensors, and batches of them
    distributions        log-densities, divergences, likelihoods; everything in nats
    models/              one file per model: its mathematics, then its parts, then the whole
    holes                a photograph with a hole, as the models of lesson 06 see it
    objectives           the bound, term by term, and its importance-weighted sharpening
    optim                the update rules that lesson 02 compares
    processes            one process or many, as torchrun starts them
    train                the loop, resuming, seeds, threads, devices, profiles
    evaluate             what a trained model is worth, with standard errors
    baselines            fillings that nothing was trained for, and what a hole costs without a model
    fillings             what the fillings of a hole are worth: near, diverse, calibrated, seamless
    recipes              one plain function per trained model; `python -m course_utils.recipes`
    ledger               every number that the course prints
    plots, widgets       tensors in, figures and boards out
    checks, doctor       exercise checks; is this machine ready?

Importing the package imports nothing: a lesson takes what it needs from the module that has it.
"""
