// SPDX-License-Identifier: GPL-2.0
/*
 * Reads JSON by recursive descent, with one function for each kind of value. See json.h.
 *
 * State while reading: the position in the text.
 */
#include <stdlib.h>
#include <string.h>

#include "json.h"

#define MAX_DEPTH 32

static struct json *read_value(char **at, int depth);

static void skip_space(char **at)
{
	*at += strspn(*at, " \t\r\n");
}

static bool take(char **at, char c)
{
	skip_space(at);
	if (**at != c)
		return false;
	++*at;
	return true;
}

/* Reads a string, from its opening quote on, and unescapes it in place. */
static char *read_string(char **at)
{
	static const char escapes[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
	char *from, *to, *start;
	const char *found;

	if (!take(at, '"'))
		return NULL;
	for (from = to = start = *at; *from != '"'; from++) {
		if ((unsigned char)*from < ' ')
			return NULL;
		if (*from != '\\') {
			*to++ = *from;
			continue;
		}
		found = *++from ? strchr(escapes, *from) : NULL;
		if (!found)
			return NULL;
		*to++ = meanings[found - escapes];
	}
	*to = 0;
	*at = from + 1;
	return start;
}

static bool read_number(char **at, int64_t *number)
{
	char *digits = *at + (**at == '-'), *end;

	if (*digits < '0' || *digits > '9' ||
	    (*digits == '0' && digits[1] >= '0' && digits[1] <= '9'))
		return false;
	/* Without a sign the number is unsigned: counters use all 64 bits. */
	*number = **at == '-' ? strtoll(*at, &end, 10) : (int64_t)strtoull(*at, &end, 10);
	*at = end;
	return !*end || !strchr(".eE", *end);
}

static bool read_word(char **at, struct json *value)
{
	static const struct {
		const char *word;
		enum json_type type;
	} words[] = { { "true", JSON_TRUE }, { "false", JSON_FALSE }, { "null", JSON_NULL } };
	size_t i, len;

	for (i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		len = strlen(words[i].word);
		if (strncmp(*at, words[i].word, len))
			continue;
		*at += len;
		value->type = words[i].type;
		return true;
	}
	return false;
}

/* Reads the children of an object or list, from after the opening bracket to the closing one. */
static bool read_children(char **at, struct json *parent, int depth)
{
	char end = parent->type == JSON_OBJECT ? '}' : ']';
	struct json **last = &parent->child;
	const char *key = NULL;

	if (take(at, end))
		return true;
	do {
		if (parent->type == JSON_OBJECT) {
			key = read_string(at);
			if (!key || !take(at, ':'))
				return false;
		}
		*last = read_value(at, depth + 1);
		if (!*last)
			return false;
		(*last)->key = key;
		last = &(*last)->next;
	} while (take(at, ','));
	return take(at, end);
}

static bool fill_value(char **at, struct json *value, int depth)
{
	skip_space(at);
	switch (**at) {
	case '{':
	case '[':
		value->type = **at == '{' ? JSON_OBJECT : JSON_LIST;
		++*at;
		return depth < MAX_DEPTH && read_children(at, value, depth);
	case '"':
		value->type = JSON_STRING;
		value->string = read_string(at);
		return value->string;
	case '-':
	case '0':
	case '1':
	case '2':
	case '3':
	case '4':
	case '5':
	case '6':
	case '7':
	case '8':
	case '9':
		value->type = JSON_NUMBER;
		return read_number(at, &value->number);
	default:
		return read_word(at, value);
	}
}

static struct json *read_value(char **at, int depth)
{
	struct json *value = calloc(1, sizeof(*value));

	if (value && !fill_value(at, value, depth)) {
		json_free(value);
		return NULL;
	}
	return value;
}

struct json *json_parse(char *text)
{
	struct json *tree = read_value(&text, 0);

	skip_space(&text);
	if (!*text)
		return tree;
	json_free(tree);
	return NULL;
}

void json_free(struct json *tree)
{
	struct json *next;

	for (; tree; tree = next) {
		next = tree->next;
		json_free(tree->child);
		free(tree);
	}
}

const struct json *json_get(const struct json *object, const char *key)
{
	const struct json *member;

	if (!object || object->type != JSON_OBJECT)
		return NULL;
	for (member = object->child; member; member = member->next)
		if (!strcmp(member->key, key))
			return member;
	return NULL;
}

const char *json_string(const struct json *object, const char *key, const char *otherwise)
{
	const struct json *member = json_get(object, key);

	return member && member->type == JSON_STRING ? member->string : otherwise;
}

int64_t json_number(const struct json *object, const char *key, int64_t otherwise)
{
	const struct json *member = json_get(object, key);

	return member && member->type == JSON_NUMBER ? member->number : otherwise;
}

bool json_true(const struct json *object, const char *key)
{
	const struct json *member = json_get(object, key);

	return member && member->type == JSON_TRUE;
}
