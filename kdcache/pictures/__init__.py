"""Pictures of people: heatmaps and keypoints of mentors and students, side by side, as PNG."""

from kdcache.pictures.people import MOST_PEOPLE, draw_people

__all__ = ["MOST_PEOPLE", "draw_people"]
