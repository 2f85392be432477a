"""Who is not a shopper: crawlers and monitors, told by their User-Agent before any arm is assigned."""

import re
from functools import lru_cache

LONGEST = 1_000  # characters looked at: a head may hold 128 KiB, which would take 30 ms
REMEMBERED = 2_000  # of them: a look takes 30 µs at a browser's, an eighth of a slate
# Parts of the User-Agent of the large crawlers, link previews and monitors. A firm's name alone says little:
# CUBOT makes phones, and people shop with the browsers of Telegram, Yandex, Baidu and DuckDuckGo. The robots
# call themselves bot or spider, or name the page on them.
_BOTS = re.compile(
    r"(?<!cu)bot\b|crawl|spider|slurp|scrapy|headlesschrome|phantomjs|lighthouse"
    r"|bingpreview|facebookexternalhit|embedly|outbrain|whatsapp|pinterest/0"
    r"|pingdom|uptimerobot|statuscake|nagios|zabbix"
    r"|ahrefs|semrush|mj12|yandex\.\w+/bots|yandex(?:images|video|media|metrika|direct|webmaster|favicons)",
    re.IGNORECASE,
)


def is_bot(user_agent: str) -> bool:
    """Whether this User-Agent names a robot. An empty one does not: storefront servers often send none.

    >>> is_bot("Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)")
    True
    >>> is_bot("Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0")
    False
    """
    return bool(user_agent) and _names_a_robot(user_agent[:LONGEST])


@lru_cache(REMEMBERED)
def _names_a_robot(beginning: str) -> bool:
    return _BOTS.search(beginning) is not None
