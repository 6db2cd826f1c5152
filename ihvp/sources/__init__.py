"""Files outside the blob store that specs refer to: what they are called, pinned and read; no torch.

``uri`` is the syntax, ``pin`` what is remembered of a file, ``source`` the protocol that each adapter fulfils,
``sources`` the adapters that an operator has opened.
"""
