// SPDX-License-Identifier: GPL-2.0
/*
 * viewer.js - opens the trace of the page in the trace viewer, and writes what that has of it, as
 * JSON, to an element that viewer-test reads.
 *
 * State: the page. Read next: viewer-test.
 */
'use strict';

function view(model)
{
	const viewer = document.createElement('tr-ui-timeline-view');
	const tracks = document.createElement('track-view-container');

	tracks.id = 'track_view_container';
	viewer.globalMode = true;
	viewer.viewTitle = 'mkvm';
	viewer.track_view_container = tracks;
	Polymer.dom(viewer).appendChild(tracks);
	document.body.appendChild(viewer);
	viewer.model = model;
}

function lanes_of(model)
{
	return Object.values(model.processes).flatMap(process => Object.values(process.threads).map(
		thread => [process.pid, thread.name, thread.sliceGroup.length]));
}

function tell(what)
{
	const result = document.createElement('pre');

	result.id = 'result';
	result.style.display = 'none';
	result.textContent = JSON.stringify(what);
	document.body.appendChild(result);
}

function open_trace()
{
	const model = new tr.Model();

	new tr.importer.Import(model).importTraces([document.getElementById('trace').textContent]);
	view(model);
	/* The view is made in steps of its own. */
	setTimeout(() => {
		const lanes = lanes_of(model), shown = Array.from(document.querySelectorAll('heading'), heading => heading.title);

		tell({
			error: '',
			warnings: model.importWarnings.map(warning => warning.message),
			lanes: lanes.sort((a, b) => a[0] - b[0] || (a[1] < b[1] ? -1 : 1)),
			arrows: model.flowEvents.length,
			loose: model.flowEvents.filter(flow => !flow.startSlice || !flow.endSlice).length,
			hidden: lanes.map(lane => lane[1]).filter(name => !shown.some(title => title.endsWith(`name: ${name}`))),
		});
	}, 5000);
}

window.addEventListener('WebComponentsReady', () => {
	try {
		open_trace();
	} catch (error) {
		tell({ error: String(error.stack) });
	}
});
