"""One module per family of skills. Each exports `SKILLS`: skill name -> function of a `Source` giving a `Case`."""
