/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A reader of JSON: the whole text becomes a tree.
 *
 * Strict: what RFC 8259 does not allow is refused. Numbers are whole numbers of 64 bits, escapes
 * in strings are those of one letter: mkvm writes no others. Owns no state. Read json.c next.
 */
#ifndef MKVM_JSON_H
#define MKVM_JSON_H

#include <stdbool.h>
#include <stdint.h>

enum json_type { JSON_OBJECT, JSON_LIST, JSON_STRING, JSON_NUMBER, JSON_TRUE, JSON_FALSE, JSON_NULL };

struct json {
	enum json_type type;
	const char *key;		/* of a member of an object, else NULL */
	const char *string;		/* JSON_STRING */
	int64_t number;			/* JSON_NUMBER */
	struct json *child, *next;	/* first of an object's or list's, in the text's order */
};

/*
 * json_parse - the tree of a text, NULL if it is not JSON or memory is short
 * @text: changed; strings stay in it, so it must live as long as the tree
 */
struct json *json_parse(char *text);
void json_free(struct json *tree);

/* The member of an object, NULL if there is none or no object. */
const struct json *json_get(const struct json *object, const char *key);

/* The same, if it has this type; else what is given. */
const char *json_string(const struct json *object, const char *key, const char *otherwise);
bool json_true(const struct json *object, const char *key);
int64_t json_number(const struct json *object, const char *key, int64_t otherwise);

#endif
