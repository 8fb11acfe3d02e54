"""From a request to a destination: which service a request means (``names``), which of the service's routes it takes
(``table``), and to which share of it it belongs (``split``). Pure, no Twisted.
"""
