"""Who is not a shopper: crawlers and monitors, told by their User-Agent before any arm is assigned."""

import re

# Parts of the User-Agent of the large crawlers, link previews and monitors.
LONGEST = 1_000  # characters looked at: a head may hold 128 KiB, which would take 30 ms
_BOTS = re.compile(
    r"bot\b|bot/|crawl|spider|slurp|scrapy|headlesschrome|phantomjs|lighthouse"
    r"|bingpreview|facebookexternalhit|embedly|outbrain|whatsapp|telegram|pinterest/0"
    r"|pingdom|uptimerobot|statuscake|nagios|zabbix"
    r"|ahrefs|semrush|mj12|yandex|baidu|duckduck",
    re.IGNORECASE,
)


def is_bot(user_agent: str) -> bool:
    """Whether this User-Agent names a robot. An empty one does not: storefront servers often send none.

    >>> is_bot("Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)")
    True
    >>> is_bot("Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0")
    False
    """
    return bool(user_agent) and _BOTS.search(user_agent, 0, LONGEST) is not None
