/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A JSON reader, which turns a text into a tree.
 *
 * It refuses what RFC 8259 does not allow. It supports only integers of 64 bits and escapes of one
 * letter, since mkvm writes no others. Owns no state. Read json.c next.
 */
#ifndef MKVM_JSON_H
#define MKVM_JSON_H

#include <stdbool.h>
#include <stdint.h>

enum json_type {
	JSON_OBJECT,
	JSON_LIST,
	JSON_STRING,
	JSON_NUMBER,
	JSON_TRUE,
	JSON_FALSE,
	JSON_NULL
};

struct json {
	enum json_type type;
	const char *key;		/* for a member of an object, else NULL */
	const char *string;		/* JSON_STRING */
	int64_t number;			/* JSON_NUMBER */
	struct json *child, *next;	/* the first child; siblings are in the text's order */
};

/*
 * json_parse - return the tree of a text; NULL if it is not JSON or memory is short
 * @text: is changed, and must live as long as the tree, because strings stay in it
 */
struct json *json_parse(char *text);
void json_free(struct json *tree);

/* Returns the member of an object; NULL if there is none, or if it is not an object. */
const struct json *json_get(const struct json *object, const char *key);

/* Return the member's value if it has this type, else the given one. */
const char *json_string(const struct json *object, const char *key, const char *otherwise);
bool json_true(const struct json *object, const char *key);
int64_t json_number(const struct json *object, const char *key, int64_t otherwise);

#endif
