"""Five hundred tools of a company's software, and a conversation of thirty turns that needs some of them."""

from collections.abc import Callable
from typing import NamedTuple

from llama_index.core.tools import FunctionTool

ACTIONS = {
    "create": "Make a new {thing}.",
    "delete": "Remove a {thing} for good.",
    "update": "Change the details of an existing {thing}.",
    "list": "Show all {thing}s that match some criteria.",
    "share": "Give another person access to a {thing}.",
    "export": "Save a {thing} as a file, such as PDF or CSV.",
    "archive": "Put a {thing} away so that it no longer shows up.",
    "approve": "Accept a {thing} that waits for a decision.",
    "print": "Print a {thing} on paper.",
    "schedule": "Set the date and time of a {thing}.",
}
THINGS = (
    "invoice payslip contract meeting flight hotel_booking train_ticket expense_report purchase_order support_ticket "
    "newsletter survey blog_post press_release job_posting job_application interview training_course holiday_request "
    "sick_note payroll_run bank_transfer credit_card loan insurance_claim tax_return budget sales_forecast customer "
    "supplier product price_list discount_code shipment warehouse_slot stock_count recipe menu playlist photo_album "
    "video backup user_account firewall_rule server database_table dashboard alarm door_badge"
).split()
CITIES = {"get_weather": "Current weather and temperature in a city."} | {
    f"find_{what}": f"Find {words} near a place."
    for what, words in {
        "restaurant": "a restaurant or cafe",
        "pharmacy": "a pharmacy or chemist",
        "parking": "a car park",
        "museum": "museums and galleries",
        "doctor": "a doctor or clinic",
        "playground": "playgrounds for children",
        "swimming_pool": "swimming pools",
        "charging_station": "charging stations for electric cars",
        "hairdresser": "a hairdresser or barber",
    }.items()
}


class Asked(NamedTuple):
    """What a user says, and the name of the tool that it needs."""

    text: str
    tool: str


CONVERSATION = [
    Asked("What's the weather like in Oslo?", "get_weather"),
    Asked("And the same for Paris?", "get_weather"),
    Asked("Please make a new invoice for Mrs. Lind, 400 euros.", "create_invoice"),
    Asked("One for Mr. Holm too, please.", "create_invoice"),
    Asked("Which museums are there around the station?", "find_museum"),
    Asked("What about near the harbour?", "find_museum"),
    Asked("I need to give Tom access to the sales forecast.", "share_sales_forecast"),
    Asked("And Anna as well.", "share_sales_forecast"),
    Asked("Delete the user account of Peter, he left us.", "delete_user_account"),
    Asked("Same for Maria.", "delete_user_account"),
    Asked("Is it raining in Berlin right now?", "get_weather"),
    Asked("Approve the holiday request of my colleague Jo.", "approve_holiday_request"),
    Asked("And that of Kim.", "approve_holiday_request"),
    Asked("Show me all support tickets from last week.", "list_support_ticket"),
    Asked("And the week before?", "list_support_ticket"),
    Asked("Save the tax return as a PDF.", "export_tax_return"),
    Asked("Also as CSV, please.", "export_tax_return"),
    Asked("Where can I charge my electric car close to the office?", "find_charging_station"),
    Asked("Put the meeting with the board on Friday at ten.", "schedule_meeting"),
    Asked("No, make that Thursday.", "schedule_meeting"),
    Asked("I want to print the menu for tonight.", "print_menu"),
    Asked("Twice, please.", "print_menu"),
    Asked("Make a new discount code for the summer sale.", "create_discount_code"),
    Asked("Another one for the winter sale.", "create_discount_code"),
    Asked("Change the price list, all prices go up by two percent.", "update_price_list"),
    Asked("Put the old newsletter away so that nobody sees it.", "archive_newsletter"),
    Asked("Remove the firewall rule for port 22.", "delete_firewall_rule"),
    Asked("And the one for port 23.", "delete_firewall_rule"),
    Asked("How warm is it in Rome today?", "get_weather"),
    Asked("Find me a pharmacy near the hotel.", "find_pharmacy"),
]


def tools(on_call: Callable[[str], None] = lambda name: None) -> list[FunctionTool]:
    """The tools; each tells its name to `on_call` when it runs."""
    described = {
        f"{action}_{thing}": text.format(thing=thing.replace("_", " "))
        for thing in THINGS
        for action, text in ACTIONS.items()
    } | CITIES

    def tool(name: str, description: str) -> FunctionTool:
        def run(what: str = "") -> str:
            on_call(name)
            return f"{name} is done: {what}"

        return FunctionTool.from_defaults(run, name=name, description=description)

    return [tool(name, description) for name, description in described.items()]


def needed(text: str) -> str:
    """The tool that a message of the conversation needs."""
    return {asked.text: asked.tool for asked in CONVERSATION}[text]
