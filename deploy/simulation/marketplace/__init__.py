"""The simulated shop: shoppers with hidden tastes who search, see what was ranked, click, buy later and send back.

Its truth is code that no model shares. `world` holds the truth, `observables` what items show of it, `policy` the
upstream ranker, `choice` how shoppers read a list, `market` one search from candidates to orders, `traffic` who comes
when, `driver` the discrete-event loop in simulated time, `truth` what its lists were worth.
"""
